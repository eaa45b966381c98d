"""The base of models that generate: a decoder with its key-value cache, and the calls that make new tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.errors import InputError
from untorch.generation import GenerationConfig, State, Stopping, Streamer, processors, sample, search
from untorch.loading.sessions import OpenModel
from untorch.model.base import AutoModel
from untorch.model.decoder import Decoder
from untorch.model.inputs import same_shape
from untorch.numerics import Array

if TYPE_CHECKING:
    from untorch.tokenizer import Tokenizer

Seed = int | np.random.Generator | None


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
        streamer: Streamer | None = None,
        tokenizer: Tokenizer | None = None,
        *,
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
        needed for `stop_strings`; `seed` makes sampling repeatable. Raises InputError for settings that do not exist
        or contradict each other and for what the model cannot read, SequenceTooLongError where positions run out.
        """
        state, ids, config = self._prepare(
            inputs if inputs is not None else input_ids, attention_mask, decoder_input_ids, generation_config, settings
        )
        if streamer is not None and config.num_beams > 1:
            raise InputError("a streamer cannot follow beam search; set num_beams=1")
        generator = np.random.default_rng(seed)
        arguments = processors(config, ids.shape[1]), Stopping(config, tokenizer), generator
        if config.num_beams > 1:
            return search(state, ids, config, *arguments)
        if streamer is not None:
            streamer.put(ids)
        columns = [ids.repeat(config.num_return_sequences, 0)]
        for tokens in sample(state, ids, config, *arguments):
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
        tokenizer: Tokenizer | None = None,
        *,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        seed: Seed = None,
        **settings: Any,
    ) -> Iterator[Array]:
        """Yield the new tokens (rows,) of every step; what `generate` returns, without beam search."""
        state, ids, config = self._prepare(
            inputs if inputs is not None else input_ids, attention_mask, decoder_input_ids, generation_config, settings
        )
        if config.num_beams > 1:
            raise InputError("beam search knows its tokens only at the end; set num_beams=1 to stream")
        stopping = Stopping(config, tokenizer)
        return sample(state, ids, config, processors(config, ids.shape[1]), stopping, np.random.default_rng(seed))

    def _prepare(
        self,
        inputs: ArrayLike | None,
        attention_mask: ArrayLike | None,
        decoder_input_ids: ArrayLike | None,
        given: GenerationConfig | None,
        settings: dict[str, Any],
    ) -> tuple[State, Array, GenerationConfig]:
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
        return state, first, config


def _mask_of_padding(ids: Array, config: GenerationConfig) -> Array:
    """The mask of ids that come without one: padding is left out, unless its id may just as well end a text."""
    pad = config.pad_token_id
    if pad is None or pad in config.eos_tokens():
        return np.ones_like(ids)
    return np.asarray(ids != pad, dtype=np.int64)
