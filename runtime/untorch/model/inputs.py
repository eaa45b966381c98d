"""Arguments of model calls: arrays are checked before ONNX Runtime can fail obscurely, and no argument is dropped."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from untorch.bundle.arguments import refuse_unknown as unknown
from untorch.errors import InputError, SequenceTooLongError
from untorch.numerics import Array

# What a tokenizer returns for its caller, and no model of transformers reads. Token types are of them where the graph
# has no such input: its model has none.
FROM_TOKENIZERS = {
    "length",
    "num_truncated_tokens",
    "offset_mapping",
    "overflow_to_sample_mapping",
    "overflowing_tokens",
    "special_tokens_mask",
    "token_type_ids",
}

_FIXED = "the graph gives the outputs it was exported with"
_IDS = "the graph reads input_ids"

# transformers' arguments that a graph has no place for, and why or what to do.
REFUSED = {
    "cache": "pass what transformers 5 calls cache as past_key_values, to AutoModelForCausalLM",
    "cache_position": "positions follow from attention_mask and past_key_values",
    "cross_attn_head_mask": _FIXED,
    "decoder_attention_mask": "the decoder reads every token of decoder_input_ids",
    "decoder_head_mask": _FIXED,
    "decoder_inputs_embeds": "the graph reads decoder_input_ids",
    "end_positions": "untorch does not train; compute a loss from the logits",
    "encoder_attention_mask": "the graph reads no other text than input_ids",
    "encoder_hidden_states": "the graph reads no other text than input_ids",
    "encoder_outputs": "pass input_ids: the encoder runs in the same call",
    "head_mask": _FIXED,
    "inputs_embeds": _IDS,
    "labels": "untorch does not train; compute a loss from the logits",
    "logits_to_keep": "cut the logits afterwards",
    "num_logits_to_keep": "cut the logits afterwards",
    "output_attentions": _FIXED,
    "output_hidden_states": f"{_FIXED}; AutoModel gives the last hidden state",
    "past_key_values": "only AutoModelForCausalLM continues from a cache in a call; else use generate",
    "position_ids": "the graph has no such input: it numbers positions itself",
    "start_positions": "untorch does not train; compute a loss from the logits",
}

# Of these a call does what they ask for, or the graph does by itself.
HARMLESS = {"return_dict", "use_cache"}


def refuse_unknown(owner: str, given: Mapping[str, Any], used: Iterable[str]) -> None:
    """Raise InputError for the first argument that is given, not `used`, and would change the answer if it were.

    None, False and 0 ask for nothing. A misspelt name gets a suggestion.
    """
    used = frozenset(used)
    for name, value in given.items():
        if name in used or name in FROM_TOKENIZERS or name in HARMLESS or _asks_for_nothing(value):
            continue
        if name in REFUSED:
            raise InputError(f"{owner} takes no {name}: {REFUSED[name]}")
        unknown(name, sorted({"input_ids", "attention_mask", *used, *REFUSED}), owner)


def _asks_for_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (bool, int)) and not value)


def whole_numbers(name: str, value: ArrayLike, rank: int) -> Array:
    """The argument `name` as an array of whole numbers with `rank` axes. Raises InputError."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(
            f"{name} is ragged: its rows have different lengths. Pad them: "
            "tokenizer(texts, padding=True) or tokenizer.pad(…)"
        ) from None
    if array.ndim == rank - 1 and array.dtype.kind in "iu":
        raise InputError(
            f"{name} has shape {array.shape}: the batch axis is missing. Pass a batch of one: model([ids])"
        )
    if array.dtype.kind not in "iub":
        if array.size == 0:
            raise InputError(f"{name} has shape {array.shape}: there is no token in it to run")
        raise InputError(f"{name} holds {array.dtype}, not whole numbers; pass the tokenizer's ids, not its tokens")
    if array.ndim != rank:
        raise InputError(f"{name} has {array.ndim} axes {array.shape}; the model takes {rank}")
    return array


def same_shape(name: str, value: ArrayLike, ids: Array) -> Array:
    """The argument `name` as an array of whole numbers of the shape of `ids`. Raises InputError."""
    array = whole_numbers(name, value, ids.ndim)
    if array.shape != ids.shape:
        raise InputError(f"{name} has shape {array.shape} and input_ids {ids.shape}; they must be equal")
    return array


def require_ids(value: ArrayLike | None) -> ArrayLike:
    """The argument input_ids. Raises InputError where there is none."""
    if value is None:
        raise InputError("input_ids are missing; pass the tokenizer's output: model(**tokenizer(texts, …))")
    return value


def check_ids(ids: Array, vocabulary: int | None) -> None:
    """Raise InputError for ids of no tokens, and for ids outside a vocabulary of that size (None: unknown)."""
    if ids.size == 0:
        raise InputError(f"input_ids has shape {ids.shape}: there is no token in it to run")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        raise InputError(
            f"input_ids holds {low if low < 0 else high}, outside the model's vocabulary of {vocabulary} tokens. "
            "Is this the model's own tokenizer?"
        )


def check_position(length: int, limit: int | None) -> None:
    """Raise SequenceTooLongError if a generated text of `length` tokens is over the model's limit (None: no limit)."""
    if limit is not None and length > limit:
        raise SequenceTooLongError(
            f"the text has grown to {length} tokens and the model takes at most {limit}; set max_new_tokens so "
            "that the prompt and what follows fit"
        )


def warn_of_padding(ids: Array, pad: int | None, stacklevel: int) -> None:
    """Warn where ids without a mask end in padding, which then counts as text."""
    if pad is not None and (ids[..., -1] == pad).any():
        warnings.warn(
            f"no attention_mask was given and there are padding ids ({pad}) in input_ids: padding counts as text "
            "and changes the answer. Pass attention_mask",
            stacklevel=stacklevel + 1,
        )
