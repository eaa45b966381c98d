"""The heads a checkpoint can carry: one class each, differing in what they read and give."""

from __future__ import annotations

from collections.abc import Mapping

from untorch.model.base import AutoModel
from untorch.model.outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from untorch.numerics import Array


class AutoModelForSequenceClassification(AutoModel):
    """A classification or regression head: `logits` (batch, labels)."""

    output_names = ("logits",)
    output_class = SequenceClassifierOutput
    head = "a classification head"
    tasks = ("text-classification", "text-ranking", "zero-shot-classification")
    output_rank = 2
    shared_axes = 1


class AutoModelForTokenClassification(AutoModel):
    """A label for every token: `logits` (batch, sequence, labels)."""

    output_names = ("logits",)
    output_class = TokenClassifierOutput
    head = "a token classification head"
    tasks = ("token-classification",)


class AutoModelForQuestionAnswering(AutoModel):
    """Where an answer starts and ends: `start_logits` and `end_logits` (batch, sequence)."""

    output_names = ("start_logits", "end_logits")
    output_class = QuestionAnsweringModelOutput
    head = "a question answering head"
    tasks = ("question-answering",)
    output_rank = 2


class AutoModelForMaskedLM(AutoModel):
    """A token for every masked place: `logits` (batch, sequence, vocabulary)."""

    output_names = ("logits",)
    output_class = MaskedLMOutput
    head = "a masked language model head"
    tasks = ("fill-mask",)


class AutoModelForMultipleChoice(AutoModel):
    """A score for every choice: `input_ids` (batch, choices, sequence), `logits` (batch, choices)."""

    output_names = ("logits",)
    output_class = MultipleChoiceModelOutput
    head = "a multiple choice head"
    tasks = ("multiple-choice",)
    input_rank = 3
    output_rank = 2

    def forward(self, feeds: Mapping[str, Array], also: tuple[str, ...] = ()) -> list[Array]:
        """Run arrays that are known to be good; those of shape (batch, sequence) are rows of one choice."""
        rows = {name: array[:, None] if array.ndim == 2 else array for name, array in feeds.items()}
        return super().forward(rows, also)
