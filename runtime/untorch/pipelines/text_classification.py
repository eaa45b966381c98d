"""Text classification (sentiment analysis): one label, or scores for every label, for a text or a pair of texts."""

from __future__ import annotations

from typing import Any, NamedTuple

from untorch.errors import InputError
from untorch.model.heads import AutoModelForSequenceClassification
from untorch.numerics import FUNCTIONS, score_rows
from untorch.pipelines.base import Pipeline


class _Parameters(NamedTuple):
    top_k: int | None
    named_top_k: bool
    function: str
    tokenizer: dict[str, Any]


class TextClassificationPipeline(Pipeline):
    """`{"label": …, "score": …}` for a text, as transformers gives it.

    Arguments of a call: `top_k` (how many labels, best first; None for all), `function_to_apply` (`softmax`,
    `sigmoid`, `none`; by default what the checkpoint's problem type says), `truncation`, `max_length`. A pair is
    `{"text": …, "text_pair": …}`. A single string without `top_k` gives a list of one, for compatibility.
    """

    model_class = AutoModelForSequenceClassification
    input_fields = ("text", "text_pair")

    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """Classify; see the class for the arguments."""
        answer = super().__call__(inputs, **arguments)
        # transformers' own oddity, kept: one string alone comes back in a list unless top_k is named in the call.
        return [answer] if isinstance(inputs, str) and "top_k" not in arguments else answer

    def _parameters(self, arguments: dict[str, Any]) -> _Parameters:
        arguments = dict(arguments)
        all_scores = arguments.pop("return_all_scores", None)
        named = "top_k" in arguments
        top_k = arguments.pop("top_k", 1)
        if not named and all_scores is not None:
            top_k = None if all_scores else 1
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise InputError(f"top_k is {top_k!r}; it is a number from 1, or None for all labels")
        function = arguments.pop("function_to_apply", None) or self._default_function()
        if str(function).lower() not in FUNCTIONS:
            raise InputError(f"unknown function_to_apply {function!r}; choose softmax, sigmoid or none")
        return _Parameters(top_k, named, str(function).lower(), arguments)

    def _default_function(self) -> str:
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        if config.problem_type == "multi_label_classification" or config.num_labels == 1:
            return "sigmoid"
        return "softmax"

    def _answers(self, items: list[Any], batch_size: int | None, parameters: _Parameters) -> list[Any]:
        if not items:
            return []
        texts, pairs = _split_pairs(items)
        names = self.model.config.id2label
        logits = self._vectors(self._encode(texts, pairs, parameters.tokenizer), batch_size)
        if logits.shape[-1] > len(names):
            self.model.config.labels(logits.shape[-1])  # raises: the config names too few
        answers: list[Any] = []
        for scores in score_rows(logits, parameters.function):
            if parameters.top_k == 1 and not parameters.named_top_k:
                best = scores.index(max(scores))
                answers.append({"label": names[best], "score": scores[best]})
            else:
                # The sort is stable, so that tied labels keep the model's order.
                order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: parameters.top_k]
                answers.append([{"label": names[index], "score": scores[index]} for index in order])
        return answers


def _split_pairs(items: list[Any]) -> tuple[list[Any], list[Any] | None]:
    """Texts and second texts of mixed items; None for the second where no item is a pair."""
    if set(map(type, items)) == {str}:
        return items, None
    split = [_pair(item) for item in items]
    paired = [second is not None for _, second in split]
    if any(paired) and not all(paired):
        raise InputError("some inputs are pairs and some are single texts; run them in two calls")
    return [first for first, _ in split], [second for _, second in split] if any(paired) else None


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, dict):
        unknown = set(item) - {"text", "text_pair"}
        if unknown or "text" not in item:
            raise InputError(f'a pair is {{"text": …, "text_pair": …}}; got the keys {", ".join(map(str, item))}')
        return item["text"], item.get("text_pair")
    # An old spelling of a pair that transformers still takes: [["first", "second"]].
    if isinstance(item, list) and len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
        return item[0][0], item[0][1]
    if isinstance(item, list):
        raise InputError('a list is not a text; a pair of texts is {"text": "first", "text_pair": "second"}')
    return item, None
