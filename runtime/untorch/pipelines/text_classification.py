"""Text classification (sentiment analysis): one label, or scores for every label, for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from untorch.model.heads import AutoModelForSequenceClassification
from untorch.numerics import FUNCTIONS, score_rows
from untorch.pipelines import inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.compatibility import TOKENIZER
from untorch.pipelines.parameters import argument
from untorch.pipelines.tokenizing import TokenizerParameters, settled
from untorch.values import count, flag, one_of

# What `top_k` is where nobody named it: the best label, and not in a list.
_BEST: Any = "best"


class TextClassificationParameters(TokenizerParameters):
    """The arguments of a call; see the pipeline."""

    top_k: int | None = argument(_BEST, count, none=True)
    return_all_scores: bool | None = argument(None, flag)
    function_to_apply: str = argument("", one_of(*FUNCTIONS))


class TextClassificationPipeline(Pipeline[TextClassificationParameters]):
    """`{"label": …, "score": …}` for a text, as transformers gives it.

    Arguments of a call: `top_k` (how many labels, best first; None for all), `return_all_scores` (True: all labels, in
    the config's order), `function_to_apply` (`softmax`, `sigmoid`, `none`; by default what the checkpoint's problem
    type says), and the tokenizer's `truncation`, `max_length`, `add_special_tokens`. A pair is
    `{"text": …, "text_pair": …}`. A single string without `top_k` gives a list of one, for compatibility.
    """

    model_class = AutoModelForSequenceClassification
    parameters_class = TextClassificationParameters
    rules = TOKENIZER
    default_task = "text-classification"
    input_fields = ("text", "text_pair")

    def _alone(self, item: Any, answer: Any, arguments: Mapping[str, Any]) -> Any:
        # transformers' own oddity, kept: one string alone comes back in a list unless top_k is named in the call.
        return [answer] if isinstance(item, str) and "top_k" not in arguments else answer

    def _merged(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        merged = super()._merged(arguments)
        # Of two names for one thing the call's counts, whatever the constructor was told.
        every = arguments.get("return_all_scores")
        if every is not None and "top_k" in merged and "top_k" not in arguments:
            merged["top_k"] = None if every else 1
        return merged

    def _settled(self, parameters: TextClassificationParameters) -> TextClassificationParameters:
        parameters = settled(parameters, self.max_length)
        every = parameters.return_all_scores
        if every is None:
            every = self.model.config.get("return_all_scores")
        return parameters.changed(
            return_all_scores=bool(every) and parameters.top_k is _BEST,
            function_to_apply=parameters.function_to_apply or self._default_function(),
        )

    def _default_function(self) -> str:
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        if config.problem_type == "multi_label_classification" or config.num_labels == 1:
            return "sigmoid"
        return "softmax"

    def _answers(self, items: list[Any], batch_size: int | None, parameters: TextClassificationParameters) -> list[Any]:
        if not items:
            return []
        rows = self._encode(*inputs.pairs(items), parameters)
        names = self.model.config.id2label
        logits = self._vectors(rows, batch_size)
        if logits.shape[-1] > len(names):
            self.model.config.labels(logits.shape[-1])  # raises: the config names too few
        answers: list[Any] = []
        for scores in score_rows(logits, parameters.function_to_apply):
            if parameters.return_all_scores:
                answers.append([{"label": names[index], "score": score} for index, score in enumerate(scores)])
            elif parameters.top_k is _BEST:
                best = scores.index(max(scores))
                answers.append({"label": names[best], "score": scores[best]})
            else:
                # The sort is stable, so that tied labels keep the model's order.
                order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: parameters.top_k]
                answers.append([{"label": names[index], "score": scores[index]} for index in order])
        return answers
