"""Multiple choice: which of several continuations fits a text best."""

from __future__ import annotations

from typing import Any

import numpy as np

from untorch.errors import InputError
from untorch.model.heads import AutoModelForMultipleChoice
from untorch.numerics import softmax
from untorch.pipelines import inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.compatibility import TOKENIZER
from untorch.pipelines.tokenizing import TokenizerParameters, settled


class MultipleChoicePipeline(Pipeline[TokenizerParameters]):
    """`[{"index", "score", "text"}, …]` for `{"text": …, "choices": [text, …]}`: the choices, the likeliest first.

    `index` is the choice's place in the input; the scores of a text's choices add up to 1. Inputs may differ in how
    many choices they have. Arguments of a call: `truncation`, `max_length`. transformers has no such pipeline; the
    logits are those of its AutoModelForMultipleChoice.
    """

    model_class = AutoModelForMultipleChoice
    parameters_class = TokenizerParameters
    rules = TOKENIZER
    default_task = "multiple-choice"
    input_fields = ("text", "choices")

    @classmethod
    def from_words(cls, words: list[str]) -> list[Any]:
        """A text, then its choices."""
        return [{"text": words[0], "choices": words[1:]}]

    def _settled(self, parameters: TokenizerParameters) -> TokenizerParameters:
        return settled(parameters, self.max_length)

    def _answers(
        self, items: list[Any], batch_size: int | None, parameters: TokenizerParameters
    ) -> list[list[dict[str, Any]]]:
        if not items:
            return []
        asked = [_question(item) for item in items]
        texts = [text for text, choices in asked for _ in choices]
        endings = [choice for _, choices in asked for choice in choices]
        # A choice's logit does not depend on the others, so that each is a row and rows run by length.
        logits = self._vectors(self._encode(texts, endings, parameters), batch_size)[:, 0]
        answers, start = [], 0
        for _, choices in asked:
            scores = softmax(logits[start : start + len(choices)])
            start += len(choices)
            order = np.argsort(-scores, kind="stable").tolist()
            answers.append([{"index": i, "score": float(scores[i]), "text": choices[i]} for i in order])
        return answers


def _question(item: Any) -> tuple[str, list[str]]:
    wanted = 'an input to choose for is {"text": text, "choices": [text, …]}'
    text, choices = inputs.fields(item, ("text", "choices"), wanted)
    if not isinstance(text, str) or not isinstance(choices, list) or not choices:
        raise InputError(f"{wanted}, with at least one choice")
    return text, inputs.texts(choices)
