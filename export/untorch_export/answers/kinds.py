"""The kinds of answer, one class each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch_export.answers.base import HIDDEN, Answer, Arrays, Scores
from untorch_export.answers.figures import agreement, correlation, cosines, probability_changes, spread


class _Decisions(Answer):
    """Answers that choose: each row of a table is a decision, and its highest score is the choice."""

    measure = "same decisions"

    def figures(self, expected: Sequence[Scores], got: Sequence[Scores]) -> dict[str, Any]:
        return {
            "agreement": agreement(expected, got),
            "probability_change": probability_changes(expected, got),
        }

    def neighbours(self, first: Sequence[Scores], second: Sequence[Scores]) -> dict[str, Any]:
        return {"probability_change": probability_changes(first, second)}

    def kept(self, figures: Mapping[str, Any]) -> float:
        return float(figures["agreement"]["rate"])


class _Row(_Decisions):
    """logits (batch, labels): one label a row. A head of one label is a regression; some choose every label."""

    one_a_row = True

    def of(self, config: Mapping[str, Any]) -> Answer:
        if len(config.get("id2label") or ()) == 1:
            return _VALUE
        return _FLAGS if config.get("problem_type") == "multi_label_classification" else self

    def axes(self, output: str) -> tuple[str, ...]:
        return ("batch", "sequence") if output == HIDDEN else ("batch",)

    def _row(self, outputs: Arrays, row: int, real: NDArray[np.bool_]) -> Scores:
        del real
        return outputs["logits"][row][None]


class _Flags(_Row):
    """logits (batch, labels): a yes or no for each label, a decision between 0 and the label's logit."""

    def _row(self, outputs: Arrays, row: int, real: NDArray[np.bool_]) -> Scores:
        del real
        logits = outputs["logits"][row]
        return np.stack([np.zeros_like(logits), logits], axis=-1)  # softmax over (0, x) is the sigmoid of x


class _Value(_Row):
    """logits (batch, 1): a number a row, such as a passage's relevance."""

    measure = "correlation"

    def figures(self, expected: Sequence[Scores], got: Sequence[Scores]) -> dict[str, Any]:
        return {"correlation": correlation(expected, got)}

    def neighbours(self, first: Sequence[Scores], second: Sequence[Scores]) -> dict[str, Any]:
        return {"value_change": spread(np.abs(np.concatenate(first) - np.concatenate(second)))}

    def kept(self, figures: Mapping[str, Any]) -> float:
        return float(figures["correlation"])


class _Token(_Decisions):
    """logits (batch, sequence, labels): one label a token, or one word of a vocabulary."""

    def axes(self, output: str) -> tuple[str, ...]:
        del output
        return ("batch", "sequence")

    def _row(self, outputs: Arrays, row: int, real: NDArray[np.bool_]) -> Scores:
        return outputs["logits"][row][real]


class _Span(_Decisions):
    """start_logits and end_logits (batch, sequence): a position a row in each."""

    def axes(self, output: str) -> tuple[str, ...]:
        del output
        return ("batch", "sequence")

    def _row(self, outputs: Arrays, row: int, real: NDArray[np.bool_]) -> Scores:
        return np.stack([outputs[name][row][real] for name in ("start_logits", "end_logits")])


class _Vector(Answer):
    """last_hidden_state (batch, sequence, hidden): vectors, whose direction is what counts."""

    measure = "mean cosine"

    def axes(self, output: str) -> tuple[str, ...]:
        del output
        return ("batch", "sequence")

    def _row(self, outputs: Arrays, row: int, real: NDArray[np.bool_]) -> Scores:
        return outputs[HIDDEN][row][real]

    def figures(self, expected: Sequence[Scores], got: Sequence[Scores]) -> dict[str, Any]:
        return {"cosine": cosines(expected, got)}

    def neighbours(self, first: Sequence[Scores], second: Sequence[Scores]) -> dict[str, Any]:
        return self.figures(first, second)

    def kept(self, figures: Mapping[str, Any]) -> float:
        return min(float(figures["cosine"][name]) for name in ("text_mean", "token_mean"))


class _Choice(_Decisions):
    """logits (batch, choices), of inputs (batch, choices, sequence): one of several endings for each text.

    The graph does not give hidden states: `AutoModel` has no axis of choices.
    """

    input_axes = ("batch", "choices", "sequence")
    gives_states = False
    # How a text goes on, where one ending is to be chosen.
    endings = ("It was better than expected.", "Nobody knows.", "He opened the door, and the rain came in.")

    def axes(self, output: str) -> tuple[str, ...]:
        del output
        return ("batch", "choices")

    @property
    def rows_an_input(self) -> int:
        return len(self.endings)

    def shaped(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows.reshape(-1, len(self.endings), rows.shape[-1])

    def laid_out(self, texts: Sequence[Any], pairs: Sequence[str] | None) -> tuple[list[Any], list[str] | None]:
        del pairs
        return [text for text in texts for _ in self.endings], list(self.endings) * len(texts)

    def _row(self, outputs: Arrays, row: int, real: NDArray[np.bool_]) -> Scores:
        del real
        return outputs["logits"][row][None]


class _Next(_Decisions):
    """logits (batch, sequence, vocabulary): the token that follows, with a cache of what was read."""

    generates = True
    measure = "same next tokens"
    difference = "largest difference from PyTorch, over 1 + the largest logit of its position"

    def axes(self, output: str) -> tuple[str, ...]:
        del output
        return ("batch", "sequence")

    def scale(self, output: str, expected: NDArray[Any]) -> NDArray[Any] | float:
        """A position's values come from one hidden state, whose size is what rounds.

        PyTorch's own fp32 logits of SmolLM2-135M are up to 1.3e-3 away from those it computes in float64.
        """
        del output
        return 1 + np.abs(expected).max(-1, keepdims=True)

    def _row(self, outputs: Arrays, row: int, real: NDArray[np.bool_]) -> Scores:
        return outputs["logits"][row][real]


ROW = _Row()
TOKEN = _Token()
SPAN = _Span()
VECTOR = _Vector()
CHOICE = _Choice()
NEXT = _Next()
_FLAGS = _Flags()
_VALUE = _Value()
