"""The whole road, from text to answer: the bundle is opened with the runtime and asked what the library is asked.

Comparing graphs says nothing of what stands around them: lower-casing, limits, prompts, pooling, types of tokens, the
side of padding, the ids that end a text. So untorch's own pipeline, opened on the bundle before it is moved into
place, answers the texts that the reference library's own call answers, and fp32 has to give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from untorch import pipeline
from untorch.bundle.folder import Bundle
from untorch.bundle.manifest import Variant, Verdict
from untorch.bundle.precisions import Operators, read_name
from untorch.errors import UntorchError
from untorch_export.answers.figures import figure
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.errors import ExportError
from untorch_export.parity import gates
from untorch_export.parity.libraries import Call, NoReferenceError, call_of
from untorch_export.parity.quality import Quality

Tick = Callable[[int, int], None]

# Texts that a reduced precision is asked, to see that it runs.
TRIED = 3


def walk(checkpoint: Checkpoint, bundle: Path, precisions: Iterable[str], tick: Tick) -> dict[str, Any]:
    """Ask every variant of a written bundle; a report of how fp32's answers compare with the library's.

    Raises ExportError for a variant that cannot be opened, or answers nothing. The report has `library` and `texts`,
    how many were the `same`, and of the first that was not, `text`, `expected` and `got`; or `not compared`, a reason.
    """
    precisions = [name for name in precisions if read_name(name).operators is not Operators.PACKED]
    if checkpoint.tokenizer is None:
        _open_models(bundle, precisions)
        return {"not compared": "the bundle has no tokenizer"}
    try:
        call = call_of(checkpoint)
    except NoReferenceError as error:
        for precision in precisions:
            _opened(checkpoint, bundle, precision)
        return {"not compared": str(error)}
    report: dict[str, Any] = {"not compared": "there is no fp32 variant"}
    for precision in precisions:
        pipe = _opened(checkpoint, bundle, precision)
        if precision == "fp32":
            report = _compare(call, pipe, tick)
        else:
            for item in call.inputs[:TRIED]:
                _answer(call, pipe, item)
    return report


def _opened(checkpoint: Checkpoint, bundle: Path, precision: str) -> Any:
    try:
        return pipeline(checkpoint.task.name, bundle, device="cpu", precision=precision)
    except UntorchError as error:
        raise ExportError(f"the {precision} bundle could not be opened, so nothing was written: {error}") from error


def _open_models(bundle: Path, precisions: Iterable[str]) -> None:
    """Load every variant of a bundle that has no tokenizer."""
    from untorch.pipelines import class_of

    for precision in precisions:
        try:
            class_of(str(Bundle(bundle).task)).model_class.from_pretrained(bundle, device="cpu", precision=precision)
        except UntorchError as error:
            raise ExportError(f"the {precision} bundle could not be opened, so nothing was written: {error}") from error


def _compare(call: Call, pipe: Any, tick: Tick) -> dict[str, Any]:
    compared = same = 0
    first: dict[str, str] = {}
    for done, item in enumerate(call.inputs):
        tick(done, len(call.inputs))
        try:
            expected = call.theirs(item)
        except Exception:  # what the library itself cannot answer is nothing to be held to
            continue
        got = _answer(call, pipe, item)
        agreed = alike(expected, got)
        if not agreed and call.tied(item):  # either text is the model's
            continue
        compared += 1
        same += agreed
        if not agreed and not first:
            first = {"text": shown(item), "expected": shown(expected), "got": shown(got)}
    return {"library": call.library, "texts": compared, "same": same, **first}


def _answer(call: Call, pipe: Any, item: Any) -> Any:
    try:
        return pipe(item, **call.ours)
    except UntorchError as error:
        return error


def alike(expected: Any, got: Any) -> bool:
    """Whether two answers are the same: names and order alike, numbers within TOLERANCE of 1 + their size.

    Records whose scores are that close to each other may stand in either order.
    """
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(alike(expected[key], got[key]) for key in expected)
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        if len(expected) != len(got):
            return False
        if all(map(alike, expected, got)):
            return True
        return _records(expected) and _records(got) and _tied(expected, got)
    if isinstance(expected, (str, bool, type(None))):
        return bool(expected == got)
    try:
        want, have = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    except (TypeError, ValueError):
        return False
    return want.shape == have.shape and bool((np.abs(want - have) <= gates.TOLERANCE * (1 + np.abs(want))).all())


def _records(answer: Any) -> bool:
    return all(isinstance(item, dict) and "score" in item for item in answer)


def _tied(expected: Any, got: Any) -> bool:
    """Whether two lists of records have the same scores in order, and differ only in who has equal ones."""
    scores = [[item["score"] for item in answer] for answer in (expected, got)]
    if not alike(*scores):
        return False
    return all(
        alike(want, have) or any(alike(have, other) for other in expected) or _close_to_last(want, expected)
        for want, have in zip(expected, got, strict=True)
    )


def _close_to_last(record: dict[str, Any], answer: Any) -> bool:
    """Whether a record has the score of the last one, so that another may have taken its place."""
    return alike(record["score"], answer[-1]["score"])


def shown(value: Any, most: int = 160) -> str:
    """One short line for a text or an answer."""
    if isinstance(value, BaseException):
        value = f"{type(value).__name__}: {value}"
    elif isinstance(value, np.ndarray):
        value = f"{np.round(value.ravel()[:4], 5).tolist()} …"
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]} …"


def judge_quality(
    checkpoint: Checkpoint, bundle: Path, variants: dict[str, Variant], asked: Quality
) -> dict[str, Variant]:
    """The variants with their figure by labels, and those in eight bits judged by it.

    fp32, which is PyTorch's model element by element, stands for PyTorch. Raises ExportError where it is not there.
    """
    if "fp32" not in variants:
        raise ExportError(f"{asked.name} is compared with that of fp32; name fp32 in --precision, too")
    points = {}
    for name in variants:
        if read_name(name).operators is not Operators.PACKED:
            pipe = _opened(checkpoint, bundle, name)
            points[name] = asked.score(list(pipe((item for item in asked.inputs), **asked.arguments)))
    judged = {}
    for name, variant in variants.items():
        if name not in points:
            judged[name] = variant
            continue
        report = {**variant.parity, "quality": {"measure": asked.name, "points": figure(points[name])}}
        verdict: Verdict = variant.verdict
        if name.startswith("int8"):
            verdict, report["gate"] = gates.judge_points(name, asked.name, points["fp32"] - points[name])
        judged[name] = replace(variant, verdict=verdict, parity=report)
    return judged
