"""Language models that continue a text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from untorch.errors import InputError
from untorch.generation import GenerationConfig, State
from untorch.model import inputs as arguments
from untorch.model.base import as_asked, positions
from untorch.model.decoder import Cache, Decoder
from untorch.model.generative import GenerativeModel
from untorch.model.outputs import CausalLMOutputWithPast, ModelOutput
from untorch.numerics import Array


class AutoModelForCausalLM(GenerativeModel):
    """A language model that continues a text: `logits` (batch, sequence, vocabulary)."""

    output_class = CausalLMOutputWithPast
    tasks = ("text-generation",)
    roles = ("model",)

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        past_key_values: Cache | None = None,
        **inputs: Any,
    ) -> ModelOutput:
        """Read `input_ids` (batch, sequence) after what `past_key_values` holds.

        `attention_mask` (batch, past + sequence) covers both; positions follow from it unless `position_ids` (batch,
        sequence) are given. The outputs are `logits` of every new position and `past_key_values` to continue from,
        which `use_cache=False` leaves out. Raises as `AutoModel` does.
        """
        # Positions are computed here, so that they can be compared where the graph computes them too.
        arguments.refuse_unknown(type(self).__name__, inputs, ("position_ids",))
        ids = self._ids(input_ids).astype(np.int64)
        past = 0 if past_key_values is None else len(past_key_values)
        arguments.check_position(past + ids.shape[1], self.max_sequence_length)
        shape = (len(ids), past + ids.shape[1])
        mask = np.ones(shape, np.int64) if attention_mask is None else np.asarray(attention_mask).astype(np.int64)
        if mask.shape != shape:
            raise InputError(f"attention_mask has shape {mask.shape}; with what was read before, it is {shape}")
        feeds = _with_positions(ids, mask)
        if inputs.get("position_ids") is not None:
            feeds["position_ids"] = self._given_positions(inputs["position_ids"], ids, feeds["position_ids"])
        if token_type_ids is not None and "token_type_ids" in self.decoder.input_names:
            feeds["token_type_ids"] = arguments.same_shape("token_type_ids", token_type_ids, ids).astype(np.int64)
        logits, cache = self.decoder.run(feeds, past_key_values)
        outputs: dict[str, Any] = {"logits": logits}
        if inputs.get("use_cache") is not False:
            outputs["past_key_values"] = cache
        return as_asked(self.output_class(outputs), inputs)

    def _given_positions(self, value: Any, ids: Array, default: Array) -> Array:
        given = positions(value, ids).astype(np.int64)
        if "position_ids" not in self.decoder.input_names and not np.array_equal(given, default):
            raise InputError("the graph takes no position_ids: it numbers positions itself, from attention_mask")
        return np.ascontiguousarray(given)

    def _begin(self, ids: Array, mask: Array, config: GenerationConfig, start: ArrayLike | None) -> tuple[State, Array]:
        del config  # a continued text begins with its own tokens
        if start is not None:
            raise InputError("a decoder-only model has no decoder_input_ids; pass input_ids")
        if not mask[:, -1].all():
            raise InputError(
                "the batch is padded on the right, and the model would continue the padding; tokenize it with "
                "padding_side='left'"
            )
        return _CausalState(self.decoder, mask, self.max_sequence_length), ids


class _CausalState:
    """What a decoder-only model has read so far of a batch of texts; `limit` is the most tokens of a text."""

    def __init__(self, decoder: Decoder, mask: Array, limit: int | None) -> None:
        self._decoder = decoder
        self._mask = mask
        self._limit = limit
        self._cache: Cache | None = None

    def read(self, ids: Array) -> Array:
        if self._cache is not None:
            self._mask = np.concatenate([self._mask, np.ones_like(ids)], axis=1)
        arguments.check_position(self._mask.shape[1], self._limit)
        logits, self._cache = self._decoder.run(_with_positions(ids, self._mask), self._cache)
        return logits[:, -1].astype(np.float32)

    def repeat(self, times: int) -> None:
        assert self._cache is not None
        self._mask = self._mask.repeat(times, 0)
        self._cache = self._cache.repeat(self._decoder.session, times)

    def reorder(self, rows: Array) -> None:
        assert self._cache is not None
        # Beams of one text share its mask.
        self._cache = self._cache.reorder(self._decoder.session, rows)


def _with_positions(ids: Array, mask: Array) -> dict[str, Any]:
    """The decoder's inputs for the last tokens of a text, whose mask (rows, length) covers all of it."""
    numbers = np.where(mask, mask.cumsum(-1) - 1, 1)[:, -ids.shape[1] :]
    return {"input_ids": ids, "attention_mask": mask, "position_ids": np.ascontiguousarray(numbers)}
