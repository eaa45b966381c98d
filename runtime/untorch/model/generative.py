"""The base of models that generate: a decoder with its key-value cache, and the calls that make new tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.errors import InputError
from untorch.generation import (
    GenerationConfig,
    Processor,
    Seed,
    State,
    Stopping,
    Streamer,
    callers_criteria,
    callers_processors,
    generator,
    prefix_processor,
    processors,
    sample,
    search,
)
from untorch.loading.sessions import OpenModel
from untorch.model.base import AutoModel
from untorch.model.decoder import Decoder
from untorch.model.inputs import same_shape
from untorch.numerics import Array

if TYPE_CHECKING:
    from untorch.tokenizer import Tokenizer


class GenerativeModel(AutoModel, ABC):
    """A model with a decoder: what language models and encoder-decoders share."""

    output_names = ("logits",)
    head = "a language model head"

    def __init__(self, bundle: Bundle, opened: OpenModel, config: ModelConfig) -> None:
        super().__init__(bundle, opened, config)
        self.decoder = Decoder(self.session, bundle.path)
        self.generation_config = GenerationConfig.load(bundle.path, config.to_dict())

    @abstractmethod
    def _begin(self, ids: Array, mask: Array, config: GenerationConfig, start: ArrayLike | None) -> tuple[State, Array]:
        """A state that has read nothing, and the ids that it has to read first (rows, length)."""

    def generate(
        self,
        inputs: ArrayLike | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[Any] | None = None,
        stopping_criteria: Sequence[Any] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Array], Any] | None = None,
        *,
        streamer: Streamer | None = None,
        tokenizer: Tokenizer | None = None,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        seed: Seed = None,
        **settings: Any,
    ) -> Array:
        """Generate ids (rows × num_return_sequences, length) from `input_ids` (rows, length).

        A decoder-only model continues its input, padded on the left, and returns it too; an encoder-decoder returns
        the decoder's ids. `settings` are transformers' (`max_new_tokens`, `num_beams`, `do_sample`, …) and take
        precedence over `generation_config`, which takes it over the bundle's generation_config.json. `tokenizer` is
        needed for `stop_strings`; `seed` makes sampling repeatable. `logits_processor` and `stopping_criteria` are
        lists of functions of `(input_ids, scores)`, as `LogitsProcessor` and `StoppingCriteria` describe them;
        `prefix_allowed_tokens_fn(number, ids)` lists the tokens that a text may go on with. Raises InputError for
        settings that do not exist or contradict each other and for what the model cannot read, SequenceTooLongError
        where positions run out.
        """
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise InputError(f"streamer is {streamer!r}; it has put(value) and end(), as TextStreamer has")
        state, ids, config, changing, stopping, draws = self._prepare(
            inputs if inputs is not None else input_ids,
            attention_mask,
            decoder_input_ids,
            generation_config,
            settings,
            (logits_processor, stopping_criteria, prefix_allowed_tokens_fn, tokenizer, seed),
        )
        if streamer is not None and config.num_beams > 1:
            raise InputError("a streamer cannot follow beam search; set num_beams=1")
        if config.num_beams > 1:
            return search(state, ids, config, changing, stopping, draws)
        if streamer is not None:
            streamer.put(ids)
        columns = [ids.repeat(config.num_return_sequences, 0)]
        for tokens in sample(state, ids, config, changing, stopping, draws):
            columns.append(tokens[:, None])
            if streamer is not None:
                streamer.put(tokens)
        if streamer is not None:
            streamer.end()
        return np.concatenate(columns, axis=1)

    def stream(
        self,
        inputs: ArrayLike | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[Any] | None = None,
        stopping_criteria: Sequence[Any] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Array], Any] | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        seed: Seed = None,
        **settings: Any,
    ) -> Iterator[Array]:
        """Yield the new tokens (rows,) of every step; what `generate` returns, without beam search."""
        state, ids, config, changing, stopping, draws = self._prepare(
            inputs if inputs is not None else input_ids,
            attention_mask,
            decoder_input_ids,
            generation_config,
            settings,
            (logits_processor, stopping_criteria, prefix_allowed_tokens_fn, tokenizer, seed),
        )
        if config.num_beams > 1:
            raise InputError("beam search knows its tokens only at the end; set num_beams=1 to stream")
        return sample(state, ids, config, changing, stopping, draws)

    def _prepare(
        self,
        inputs: ArrayLike | None,
        attention_mask: ArrayLike | None,
        decoder_input_ids: ArrayLike | None,
        given: GenerationConfig | None,
        settings: dict[str, Any],
        callers: tuple[Any, Any, Any, Tokenizer | None, Any],
    ) -> tuple[State, Array, GenerationConfig, list[Processor], Stopping, np.random.Generator]:
        """What decoding begins with, of what generate's caller gave."""
        if given is not None and not isinstance(given, GenerationConfig):
            raise InputError(f"generation_config is a {type(given).__name__}; it is an untorch.GenerationConfig")
        config = self.generation_config if given is None else given.filled_from(self.generation_config)
        config = config.updated(**settings)
        if inputs is None:
            if config.bos_token_id is None:
                raise InputError("there are no input_ids, and the model has no bos_token_id to begin with")
            inputs = np.full((1, 1), config.bos_token_id)
        ids = self._ids(inputs).astype(np.int64)
        if attention_mask is None:
            mask = _mask_of_padding(ids, config)
        else:
            mask = same_shape("attention_mask", attention_mask, ids).astype(np.int64)
        if config.pad_token_id is None and (eos := config.eos_tokens()):
            config = config.updated(pad_token_id=eos[0])
        state, first = self._begin(ids, mask, config, decoder_input_ids)
        config = config.for_prompt(
            first.shape[1],
            max_length_given=settings.get("max_length") is not None,
            position_limit=self.config.get("max_position_embeddings"),
        )
        own, criteria, allowed, tokenizer, seed = callers
        rows = config.num_beams if config.num_beams > 1 else config.num_return_sequences
        prefix = None if allowed is None else prefix_processor(allowed, rows)
        changing = processors(config, first.shape[1], callers_processors(own), prefix, ids)
        stopping = Stopping(config, tokenizer, callers_criteria(criteria) or None)
        return state, first, config, changing, stopping, generator(seed)


def _mask_of_padding(ids: Array, config: GenerationConfig) -> Array:
    """The mask of ids that come without one: padding is left out, unless its id may just as well end a text."""
    pad = config.pad_token_id
    if pad is None or pad in config.eos_tokens():
        return np.ones_like(ids)
    return np.asarray(ids != pad, dtype=np.int64)
