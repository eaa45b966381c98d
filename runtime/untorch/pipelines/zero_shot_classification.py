"""Zero-shot classification: which of the caller's labels fit a text, asked of a model of entailment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from untorch.errors import InputError, TaskError
from untorch.model.heads import AutoModelForSequenceClassification
from untorch.numerics import Array, softmax
from untorch.pipelines.base import Pipeline, truncates

_TEMPLATE = "This example is {}."


@dataclass(frozen=True)
class _Parameters:
    labels: list[str] | None
    template: str
    multi_label: bool
    truncation: bool


class ZeroShotClassificationPipeline(Pipeline):
    """`{"sequence", "labels", "scores"}` for a text, the most likely label first, as transformers gives it.

    Arguments of a call: `candidate_labels` (a list, or one string with commas; may be given second, without its
    name), `hypothesis_template` (default "This example is {}."), `multi_label` (True: every label is judged by
    itself; False: scores add up to 1), `truncation` (cut the text, never the hypothesis). In a list of inputs, one may
    be `{"text": …, "candidate_labels": …}` to have its own labels. Raises TaskError where the config names no label
    of entailment, InputError for an empty text or no labels.
    """

    model_class = AutoModelForSequenceClassification
    input_fields = ("text", "candidate_labels")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        labels = self.model.config.label2id
        found = [index for label, index in labels.items() if label.lower().startswith("entail")]
        if not found:
            raise TaskError(
                f"{self.model.bundle.path} has no label of entailment among {', '.join(labels)}; zero-shot "
                "classification needs a model of entailment, and its config.json to name that label"
            )
        self._entailment = found[0]

    def __call__(self, inputs: Any, candidate_labels: Any = None, **arguments: Any) -> Any:
        """Classify; see the class for the arguments."""
        if candidate_labels is not None:
            arguments["candidate_labels"] = candidate_labels
        return super().__call__(inputs, **arguments)

    def _parameters(self, arguments: dict[str, Any]) -> _Parameters:
        arguments = dict(arguments)
        template = arguments.pop("hypothesis_template", _TEMPLATE)
        if template.format("label") == template:
            raise InputError(f"hypothesis_template {template!r} has no place for the label; put {{}} where it goes")
        multi_label = arguments.pop("multi_label", False)
        parameters = _Parameters(
            labels=_labels(arguments.pop("candidate_labels", None)),
            template=template,
            multi_label=bool(arguments.pop("multi_class", multi_label)),
            truncation=truncates(arguments.pop("truncation", None)),
        )
        if arguments:
            raise InputError(f"zero-shot-classification takes no argument {', '.join(sorted(arguments))}")
        return parameters

    def _answers(self, items: list[Any], batch_size: int | None, parameters: _Parameters) -> list[dict[str, Any]]:
        if not items:
            return []
        asked = [_question(item, parameters.labels) for item in items]
        # One row for every label of every text.
        texts = [text for text, labels in asked for _ in labels]
        hypotheses = [parameters.template.format(label) for _, labels in asked for label in labels]
        if parameters.truncation and self.max_length is not None:
            rows, _ = self._encode_spans(texts, hypotheses, truncation="only_first")
        else:
            rows = self._encode(texts, hypotheses, {})
        logits = self._vectors(rows, batch_size)
        answers, start = [], 0
        for text, labels in asked:
            scores = self._scores(logits[start : start + len(labels)], parameters.multi_label)
            start += len(labels)
            order = scores.argsort()[::-1]
            answers.append({"sequence": text, "labels": [labels[i] for i in order], "scores": scores[order].tolist()})
        return answers

    def _scores(self, logits: Array, multi_label: bool) -> Array:
        """(labels,) from one text's logits (labels, classes)."""
        if multi_label or len(logits) == 1:
            contradiction = -1 if self._entailment == 0 else 0
            return softmax(logits[:, [contradiction, self._entailment]])[:, 1]
        return softmax(logits[:, self._entailment])


def _labels(labels: Any) -> list[str] | None:
    if isinstance(labels, str):
        return [label.strip() for label in labels.split(",") if label.strip()]
    return None if labels is None else list(labels)


def _question(item: Any, labels: list[str] | None) -> tuple[str, list[str]]:
    if isinstance(item, dict):
        unknown = set(item) - {"text", "candidate_labels"}
        if unknown or "text" not in item:
            raise InputError(f'an input is a text or {{"text": …, "candidate_labels": …}}; got {", ".join(item)}')
        item, labels = item["text"], _labels(item.get("candidate_labels")) or labels
    if not isinstance(item, str) or not item:
        raise InputError(f"the text is {item!r}; it is a text that is not empty")
    if not labels:
        raise InputError("candidate_labels are missing: give a list, or one string with commas")
    return item, labels
