"""The texts and random ids on which the quantizers find the ranges of activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from untorch.bundle.manifest import Tensor
from untorch_export.answers import Arrays
from untorch_export.checkpoint.inputs import encode, ids_of, place_marks, spare_id
from untorch_export.checkpoint.load import Checkpoint

_ROWS = 64
# Random rows have at least 4 word pieces, and at most so many tokens.
_LEAST, _LONGEST = 4, 64


def batches(checkpoint: Checkpoint, texts: Sequence[str], inputs: Sequence[Tensor]) -> list[Arrays]:
    """Rows without padding, as a graph's `inputs`: 64 of random ids, then one a text (or a pair of texts)."""
    names = [tensor.name for tensor in inputs]
    found = random_batches(names, int(checkpoint.config["vocab_size"]), _ends(checkpoint), checkpoint.limit)
    for batch in found:
        ids = batch["input_ids"]
        lengths = np.full(len(ids), ids.shape[1])
        place_marks(checkpoint.model, checkpoint.task, ids, lengths, spare_id(checkpoint))
    # A single row, with the axes that the graph's inputs have between the first and the last.
    between = tuple(range(1, len(checkpoint.task.answer.input_axes) - 1))
    found = [{name: np.expand_dims(array, between) for name, array in batch.items()} for batch in found]
    for index, text in enumerate(texts):
        pairs = [texts[(index + 1) % len(texts)]] if checkpoint.task.pairs else None
        found.append(encode(checkpoint, names, [text], pairs))
    return found


def _ends(checkpoint: Checkpoint) -> tuple[int, int]:
    """The ids that a text begins and ends with; 0 where no tokenizer names them."""
    named = (getattr(checkpoint.tokenizer, name, None) for name in ("cls_token_id", "sep_token_id", "eos_token_id"))
    first, separator, eos = (token or 0 for token in named)
    return first, separator or eos or (ids_of(checkpoint.config.get("eos_token_id")) or [0])[0]


def random_batches(
    names: Sequence[str], vocabulary_size: int, special_ids: tuple[int, int], limit: int | None
) -> list[Arrays]:
    """64 rows of random word pieces between the two special tokens, at most `limit` tokens, as inputs of those names.

    They reach corners of a vocabulary that no handful of texts does, and a model without a tokenizer has them too.
    """
    random = np.random.default_rng(0)
    found = []
    most = min(_LONGEST, limit or _LONGEST) - 2
    for length in random.integers(min(_LEAST, most), most + 1, size=_ROWS):
        # The first ids of a vocabulary are special, unused or single characters.
        middle = random.integers(vocabulary_size // 30, vocabulary_size, size=length)
        ids = np.concatenate(([special_ids[0]], middle, [special_ids[1]]))[None].astype(np.int64)
        arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        found.append({name: arrays.get(name, np.zeros_like(ids)) for name in names})
    return found
