"""Encoder-decoders, which answer one text with another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.errors import InputError
from untorch.generation import GenerationConfig, State
from untorch.loading.sessions import OpenModel
from untorch.model import inputs as arguments
from untorch.model.base import as_asked
from untorch.model.decoder import Decoder
from untorch.model.generative import GenerativeModel
from untorch.model.outputs import ModelOutput, Seq2SeqLMOutput
from untorch.numerics import Array
from untorch.ort.session import Session


class AutoModelForSeq2SeqLM(GenerativeModel):
    """An encoder-decoder: `logits` (batch, sequence, vocabulary) of what the decoder has read."""

    output_class = Seq2SeqLMOutput
    head = "an encoder-decoder"
    tasks = ("text2text-generation", "summarization", "translation")
    roles = ("encoder", "decoder")

    def __init__(self, bundle: Bundle, opened: OpenModel, config: ModelConfig) -> None:
        super().__init__(bundle, opened, config)
        self.encoder = opened.sessions[0]

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        **inputs: Any,
    ) -> ModelOutput:
        """Read `input_ids` (batch, source) with the encoder and `decoder_input_ids` (batch, sequence) with the decoder.

        The outputs are `logits` of every decoder position, `past_key_values` (not with `use_cache=False`), and
        `encoder_last_hidden_state` (batch, source, hidden). Raises as `AutoModel` does.
        """
        del token_type_ids  # a tokenizer may give them, and no encoder-decoder reads them
        if input_ids is None or decoder_input_ids is None:
            raise InputError("an encoder-decoder reads input_ids and decoder_input_ids; to get an answer, use generate")
        arguments.refuse_unknown(type(self).__name__, inputs, ())
        ids = self._ids(input_ids).astype(np.int64)
        mask = np.ones_like(ids)
        if attention_mask is not None:
            mask = arguments.same_shape("attention_mask", attention_mask, ids)
        first = self._ids(decoder_input_ids, "decoder_input_ids").astype(np.int64)
        state = _Seq2SeqState(self.encoder, self.decoder, ids, mask.astype(np.int64), self.max_sequence_length)
        logits, cache = self.decoder.run({**state.feeds, "input_ids": first}, state.cache)
        outputs: dict[str, Any] = {"logits": logits}
        if inputs.get("use_cache") is not False:
            outputs["past_key_values"] = cache
        outputs["encoder_last_hidden_state"] = state.feeds["encoder_hidden_states"].numpy()
        return as_asked(self.output_class(outputs), inputs)

    def _begin(self, ids: Array, mask: Array, config: GenerationConfig, start: ArrayLike | None) -> tuple[State, Array]:
        token = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        if token is None:
            raise InputError("the model names neither decoder_start_token_id nor bos_token_id; pass one of them")
        first = np.full((len(ids), 1), token)
        if start is not None:
            given = self._ids(start, "decoder_input_ids")
            first = np.concatenate([first, given], axis=1) if (given[:, 0] != token).all() else given
        state = _Seq2SeqState(self.encoder, self.decoder, ids, mask, self.max_sequence_length)
        return state, first.astype(np.int64)


class _Seq2SeqState:
    """An encoder-decoder whose encoder has read the source; `limit` is the most tokens that the decoder reads."""

    def __init__(self, encoder: Session, decoder: Decoder, ids: Array, mask: Array, limit: int | None) -> None:
        self._decoder = decoder
        self._limit = limit
        names = {tensor.name for tensor in encoder.inputs}
        feeds = {name: array for name, array in (("input_ids", ids), ("attention_mask", mask)) if name in names}
        # An encoder may give its states' keys and values for the decoder's layers, too; else the first step does.
        encoded = [tensor.name for tensor in encoder.outputs if tensor.name.startswith("present.")]
        _, (states, *values) = encoder.run_values(feeds, [], ["last_hidden_state", *encoded])
        self.feeds: dict[str, Any] = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        self.cache = decoder.begin(len(ids), dict(zip(encoded, values, strict=True)))

    def read(self, ids: Array) -> Array:
        arguments.check_position(ids.shape[1] + (0 if self.cache is None else len(self.cache)), self._limit)
        logits, self.cache = self._decoder.run({**self.feeds, "input_ids": ids}, self.cache)
        return logits[:, -1].astype(np.float32)

    def repeat(self, times: int) -> None:
        assert self.cache is not None
        session = self._decoder.session
        states = session.value(self.feeds["encoder_hidden_states"].numpy().repeat(times, 0))
        mask = self.feeds["encoder_attention_mask"].repeat(times, 0)
        self.feeds = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        self.cache = self.cache.repeat(session, times)

    def reorder(self, rows: Array) -> None:
        assert self.cache is not None
        self.cache = self.cache.reorder(self._decoder.session, rows)
