"""Zero-shot classification: which of the caller's labels fit a text, asked of a model of entailment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from untorch.errors import InputError, TaskError
from untorch.model.heads import AutoModelForSequenceClassification
from untorch.numerics import Array, softmax
from untorch.pipelines import inputs as given_inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.parameters import Parameters, argument
from untorch.pipelines.tokenizing import TokenizerParameters, truncates, truncation
from untorch.values import flag, string


def _labels(labels: Any) -> list[str]:
    """Labels: a list, or one string with commas."""
    if isinstance(labels, str):
        return [label.strip() for label in labels.split(",") if label.strip()]
    found: list[Any] = [None] if isinstance(labels, Mapping) or not isinstance(labels, Iterable) else list(labels)
    if not all(isinstance(label, str) for label in found):
        raise ValueError("a list of texts, or one text with commas")
    return found


class ZeroShotClassificationParameters(Parameters):
    """The arguments of a call; see the pipeline."""

    candidate_labels: list[str] | None = argument(None, _labels)
    hypothesis_template: str = argument("This example is {}.", string)
    multi_label: bool = argument(False, flag)
    multi_class: bool | None = argument(None, flag)
    truncation: bool | str | None = argument(None, truncation)


class ZeroShotClassificationPipeline(Pipeline[ZeroShotClassificationParameters]):
    """`{"sequence", "labels", "scores"}` for a text, the most likely label first, as transformers gives it.

    Arguments of a call: `candidate_labels` (a list, or one string with commas; may be given second, without its
    name), `hypothesis_template` (default "This example is {}."), `multi_label` (True: every label is judged by
    itself; False: scores add up to 1), `truncation` (cut the text, never the hypothesis). In a list of inputs, one may
    be `{"text": …, "candidate_labels": …}` to have its own labels. Raises TaskError where the config names no label
    of entailment, InputError for an empty text or no labels.
    """

    model_class = AutoModelForSequenceClassification
    parameters_class = ZeroShotClassificationParameters
    default_task = "zero-shot-classification"
    input_names = ("sequences",)
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
        self.entailment_id = found[0]

    def __call__(self, *inputs: Any, **arguments: Any) -> Any:
        """Classify; see the class for the arguments."""
        if len(inputs) == 2 and "candidate_labels" not in arguments:
            return super().__call__(inputs[0], candidate_labels=inputs[1], **arguments)
        return super().__call__(*inputs, **arguments)

    def _settled(self, parameters: ZeroShotClassificationParameters) -> ZeroShotClassificationParameters:
        template = parameters.hypothesis_template
        if template.format("label") == template:
            raise InputError(f"hypothesis_template {template!r} has no place for the label; put {{}} where it goes")
        return parameters.changed(
            multi_label=parameters.multi_label if parameters.multi_class is None else parameters.multi_class,
            truncation=truncates(parameters.truncation, self.max_length),
        )

    def _answers(
        self, items: list[Any], batch_size: int | None, parameters: ZeroShotClassificationParameters
    ) -> list[dict[str, Any]]:
        if not items:
            return []
        asked = [_question(item, parameters.candidate_labels) for item in items]
        # One row for every label of every text.
        texts = [text for text, labels in asked for _ in labels]
        hypotheses = [parameters.hypothesis_template.format(label) for _, labels in asked for label in labels]
        if parameters.truncation:
            rows, _ = self._encode_spans(texts, hypotheses, truncation="only_first")
        else:
            rows = self._encode(texts, hypotheses, TokenizerParameters())
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
            contradiction = -1 if self.entailment_id == 0 else 0
            return softmax(logits[:, [contradiction, self.entailment_id]])[:, 1]
        return softmax(logits[:, self.entailment_id])


def _question(item: Any, labels: list[str] | None) -> tuple[str, list[str]]:
    if isinstance(item, Mapping):
        wanted = 'an input is a text or {"text": …, "candidate_labels": …}'
        item, own = given_inputs.fields(item, ("text",), wanted, optional=("candidate_labels",))
        try:
            labels = _labels(own) if own is not None else labels
        except ValueError as error:
            raise InputError(f"candidate_labels is {own!r}; it is {error}") from error
    if not isinstance(item, str) or not item:
        raise InputError(f"the text is {item!r}; it is a text that is not empty")
    if not labels:
        raise InputError("candidate_labels are missing: give a list, or one string with commas")
    return item, labels
