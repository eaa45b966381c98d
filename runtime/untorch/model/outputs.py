"""A model's outputs, readable by attribute, by key and by position, as in transformers."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


class ModelOutput(dict[str, NDArray[Any]]):
    """Named arrays in a fixed order: `outputs.logits`, `outputs["logits"]` and `outputs[0]` are the same array."""

    def __getattr__(self, name: str) -> NDArray[Any]:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self)}") from None

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[NDArray[Any], ...]:
        """The arrays alone, in order."""
        return tuple(self.values())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={array!r}" for name, array in self.items())
        return f"{type(self).__name__}({fields})"


class BaseModelOutput(ModelOutput):
    """`last_hidden_state` (batch, sequence, hidden)."""


class SequenceClassifierOutput(ModelOutput):
    """`logits` (batch, labels)."""


class TokenClassifierOutput(ModelOutput):
    """`logits` (batch, sequence, labels)."""


class QuestionAnsweringModelOutput(ModelOutput):
    """`start_logits` and `end_logits` (batch, sequence)."""


class MaskedLMOutput(ModelOutput):
    """`logits` (batch, sequence, vocabulary)."""


class MultipleChoiceModelOutput(ModelOutput):
    """`logits` (batch, choices)."""


class CausalLMOutputWithPast(ModelOutput):
    """`logits` (batch, sequence, vocabulary), and `past_key_values`, the cache to continue from."""


class Seq2SeqLMOutput(ModelOutput):
    """`logits` (batch, sequence, vocabulary), `past_key_values`, and `encoder_last_hidden_state`.

    The last, (batch, source, hidden), is what the encoder made of the source.
    """
