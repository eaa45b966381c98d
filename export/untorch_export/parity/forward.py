"""Is a variant the model it was made from? Every variant is run beside PyTorch, and what differs is measured.

fp32 must agree with PyTorch in every element. A reduced precision must give the same answers; how far its
probabilities move is reported with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch.bundle.golden import Case
from untorch.bundle.manifest import Verdict
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.checkpoint.tasks import HIDDEN, Task
from untorch_export.parity import answers
from untorch_export.parity.answers import Reader, Scores, figure
from untorch_export.parity.evalset import EvalSet
from untorch_export.parity.reference import Arrays, Batch, Reference, any_mask, encode, grid

Run = Callable[[Arrays], Arrays]
Tick = Callable[[int, int], None]

# fp32: the largest difference from PyTorch in any element of any output. Hidden states are not bounded as logits are,
# and an unusually large unit rounds in proportion: PyTorch's own fp32 hidden states of all-MiniLM-L6-v2 are up to
# 1.5e-4 away from those it computes in float64. So a hidden state may differ by TOLERANCE * (1 + |value|).
TOLERANCE = 1e-4
# Reduced precisions. Points of accuracy that may be lost, where labels are given …
POINTS = 0.5
# … else the share of decisions that must stay the same …
AGREEMENT = 0.98
# … of fp16 always, since a card's rounding is no reason for another answer …
AGREEMENT_FP16 = 0.999
# … and for vectors, which have no label, the mean cosine with PyTorch's. On STS-B's validation set all-MiniLM-L6-v2's
# rank correlation falls from 0.8672 to 0.8664, 0.8655 and 0.8650 with mean cosines of 0.998, 0.993 and 0.963.
COSINE = 0.98
COSINE_FP16 = 0.9999
# Answers are compared one by one and in batches of this size, because some precisions let a row's neighbours in.
TOGETHER = 32
# Rows of a batch that are also run alone.
ALONE = 4


@dataclass
class Worst:
    """The largest difference met so far, and where. `excess` is the one that TOLERANCE limits."""

    absolute: float = 0.0
    relative: float = 0.0
    excess: float = 0.0
    where: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        case: str,
        output: str,
        expected: NDArray[Any],
        got: NDArray[Any],
        real: NDArray[np.bool_] | None = None,
    ) -> None:
        """Compare two arrays of one shape, of their first two axes only what is `real` where that is given.

        A value that is no number counts as infinitely far off.
        """
        with np.errstate(invalid="ignore"):
            difference = np.nan_to_num(np.abs(got.astype(np.float64) - expected), nan=np.inf)
        if real is not None:
            difference[~real] = 0
        scale = 1 + np.abs(expected) if output == HIDDEN else 1
        self.excess = max(self.excess, float((difference / scale).max()))
        # Relative to values near nothing, any difference is large and says nothing.
        self.relative = max(self.relative, float((difference / np.maximum(np.abs(expected), 0.01)).max()))
        index = np.unravel_index(difference.argmax(), difference.shape)
        if not self.where or difference[index] > self.absolute:
            self.absolute = float(difference[index])
            self.where = {
                "case": case,
                "output": output,
                "index": [int(axis) for axis in index],
                "expected": figure(expected[index]),
                "got": figure(got[index]),
            }

    def to_json(self) -> dict[str, Any]:
        """The report's entry."""
        return {
            "max_abs_difference": figure(self.absolute),
            "max_relative_difference": figure(self.relative),
            "worst": self.where,
        }


@dataclass(frozen=True)
class Parity:
    """The outcome for one variant: its verdict, and the report that the manifest keeps."""

    verdict: Verdict
    report: dict[str, Any]


def measure(
    checkpoint: Checkpoint,
    reference: Reference,
    variants: dict[str, Run],
    names: Sequence[str],
    evalset: EvalSet | None,
    golden: Sequence[Case],
    tick: Tick,
) -> dict[str, Parity]:
    """Compare every variant with PyTorch: on ragged random batches, on real text, and on the golden cases.

    `names` are the graph's inputs. `evalset` is None where there is no tokenizer; the answers are then those to the
    random batches. PyTorch runs once for all variants.
    """
    outputs = checkpoint.task.graph_outputs
    worst = {precision: {name: Worst() for name in outputs} for precision in variants}
    alone = {precision: Worst() for precision in variants}
    reader = Reader.of(checkpoint.task, checkpoint.config)
    expected_random: list[Scores] = []
    got_random: dict[str, list[Scores]] = {precision: [] for precision in variants}

    batches = [*grid(checkpoint, names), *_text_batches(checkpoint, names, evalset)]
    for done, batch in enumerate(batches):
        tick(done, len(batches) * 2)
        mask = batch.inputs["attention_mask"]
        expected = reference(batch.inputs)
        expected_random += reader.read(expected, mask)
        for precision, run in variants.items():
            got = run(batch.inputs)
            got_random[precision] += reader.read(got, mask)
            for name in outputs:
                # What a reduced precision says of padding means nothing; fp32 says what PyTorch says.
                only = mask.astype(bool) if precision != "fp32" and checkpoint.task.per_token(name) else None
                worst[precision][name].add(batch.name, name, expected[name], got[name], only)
            _compare_alone(batch, got, run, checkpoint.task, alone[precision])

    found: dict[str, dict[str, Any]] = {precision: {} for precision in variants}
    if evalset is None:
        for precision, got_scores in got_random.items():
            found[precision] = {"source": "random ids", **_compare(reader, expected_random, {"batch 1": got_scores})}
    else:
        found = _compare_texts(checkpoint, reference, variants, names, evalset, reader, lambda a, b: tick(a + b, b * 2))
    result = {}
    for precision, run in variants.items():
        report: dict[str, Any] = {
            "cases": len(batches),
            "outputs": {name: worst[precision][name].to_json() for name in outputs},
            "row_alone": alone[precision].to_json(),
            "answers": found[precision],
        }
        excess = max(item.excess for item in (*worst[precision].values(), alone[precision]))
        verdict, report["gate"] = _judge(precision, excess, found[precision])
        if precision == "fp16":
            finite = _finite(run(any_mask(checkpoint, names).inputs))
            report["any_mask"] = {"finite": finite}
            if not finite:
                verdict, report["gate"] = "failed", {"rule": "numbers under any mask", "limit": 1, "measured": 0}
        report["golden"] = _golden(run, golden, verdict)
        result[precision] = Parity(verdict, report)
    return result


def _finite(outputs: Arrays) -> bool:
    """Whether every value is a number: a row that is all padding must not make others."""
    return all(bool(np.isfinite(array).all()) for array in outputs.values())


def _text_batches(checkpoint: Checkpoint, names: Sequence[str], evalset: EvalSet | None) -> Iterator[Batch]:
    """Real text for the element by element comparison: eight alone, and thirty-two together."""
    if evalset is None:
        return
    for index in range(min(8, len(evalset.texts))):
        yield Batch(f"text {index}", _encode(checkpoint, names, evalset, [index]))
    if _can_pad(checkpoint):
        rows = list(range(min(TOGETHER, len(evalset.texts))))
        yield Batch(f"texts 0-{rows[-1]}", _encode(checkpoint, names, evalset, rows))


def _compare_alone(batch: Batch, got: Arrays, run: Run, task: Task, worst: Worst) -> None:
    """Run the last rows of a padded batch by themselves, without padding, and compare."""
    mask = batch.inputs["attention_mask"]
    size = len(mask)
    for row in range(max(1, size - ALONE), size):
        length = int(mask[row].sum(-1).max())
        single = run({name: array[row : row + 1, ..., :length] for name, array in batch.inputs.items()})
        for name in task.graph_outputs:
            together = got[name][row : row + 1]
            if task.per_token(name):
                together = together[:, :length]
            worst.add(f"{batch.name}, row {row} alone", name, single[name], together)


def _compare_texts(
    checkpoint: Checkpoint,
    reference: Reference,
    variants: dict[str, Run],
    names: Sequence[str],
    evalset: EvalSet,
    reader: Reader,
    tick: Tick,
) -> dict[str, dict[str, Any]]:
    """Answers to real text, each alone and in batches of TOGETHER, against PyTorch's."""
    count = len(evalset.texts)
    # By length, as the runtime batches them.
    order = sorted(range(count), key=lambda index: len(evalset.texts[index]))
    groups = {"batch 1": [[index] for index in range(count)]}
    if _can_pad(checkpoint):
        groups[f"batch {TOGETHER}"] = [order[start : start + TOGETHER] for start in range(0, count, TOGETHER)]
    total = sum(len(group) for group in groups.values())
    blank: Scores = np.empty(0, np.float32)
    expected = [blank] * count
    got = {precision: {group: [blank] * count for group in groups} for precision in variants}
    done = 0
    for group, batches in groups.items():
        last = group == list(groups)[-1]
        for rows in batches:
            tick(done, total)
            done += 1
            inputs = _encode(checkpoint, names, evalset, rows)
            mask = inputs["attention_mask"]
            if last:  # PyTorch's rows do not depend on their neighbours, and batches are faster
                _place(expected, rows, reader.read(reference(inputs), mask))
            for precision, run in variants.items():
                _place(got[precision][group], rows, reader.read(run(inputs), mask))
    return {
        precision: {**evalset.about, **_compare(reader, expected, got[precision], evalset.labels)}
        for precision in variants
    }


def _place(target: list[Scores], rows: Sequence[int], scores: Sequence[Scores]) -> None:
    for row, table in zip(rows, scores, strict=True):
        target[row] = table


def _compare(
    reader: Reader, expected: list[Scores], got: dict[str, list[Scores]], labels: list[int] | None = None
) -> dict[str, Any]:
    """The figures of each batch size against PyTorch, and of the batch sizes against each other."""
    report: dict[str, Any] = {}
    for group, scores in got.items():
        if reader.kind == "vector":
            report[group] = {"cosine": answers.cosines(expected, scores)}
        elif reader.kind == "value":
            report[group] = {"correlation": answers.correlation(expected, scores)}
        else:
            report[group] = {
                "agreement": answers.agreement(expected, scores),
                "probability_change": answers.probability_changes(expected, scores),
            }
        if labels is not None:
            report[group]["accuracy"] = {
                "correct": answers.correct(scores, labels),
                "pytorch": answers.correct(expected, labels),
                "of": len(labels),
            }
    if len(got) == 2:
        first, second = got.values()
        if reader.kind == "vector":
            report["neighbours"] = {"cosine": answers.cosines(first, second)}
        elif reader.kind == "value":
            changes = np.abs(np.concatenate(first) - np.concatenate(second))
            report["neighbours"] = {"value_change": answers.spread(changes)}
        else:
            report["neighbours"] = {"probability_change": answers.probability_changes(first, second)}
    return report


def _judge(precision: str, excess: float, found: dict[str, Any]) -> tuple[Verdict, dict[str, Any]]:
    """The verdict, and the gate it comes from: what was asked for and what was measured."""
    if precision == "fp32":
        gate = {"rule": "largest difference", "limit": TOLERANCE, "measured": figure(excess)}
        return ("exact" if excess <= TOLERANCE else "failed"), gate
    groups = [item for key, item in found.items() if key.startswith("batch ")]
    if "accuracy" in groups[0] and precision != "fp16":
        lost = max(100 * (a["pytorch"] - a["correct"]) / a["of"] for a in (group["accuracy"] for group in groups))
        gate = {"rule": "accuracy lost, points", "limit": POINTS, "measured": figure(lost)}
        return ("close" if lost <= POINTS else "failed"), gate
    if "agreement" in groups[0]:
        rule, limit = "same decisions", AGREEMENT_FP16 if precision == "fp16" else AGREEMENT
        least = min(group["agreement"]["rate"] for group in groups)
    elif "cosine" in groups[0]:
        rule, limit = "mean cosine", COSINE_FP16 if precision == "fp16" else COSINE
        least = min(group["cosine"][key] for group in groups for key in ("text_mean", "token_mean"))
    else:
        rule, limit = "correlation", AGREEMENT_FP16 if precision == "fp16" else AGREEMENT
        least = min(group["correlation"] for group in groups)
    return ("close" if least >= limit else "failed"), {"rule": rule, "limit": limit, "measured": least}


def _golden(run: Run, cases: Sequence[Case], verdict: Verdict) -> dict[str, float]:
    """How far the variant is from the golden outputs here, and how far it may be elsewhere.

    Reduced precisions round differently from one processor to the next, so they get twice what was measured.
    """
    worst = Worst()
    for index, case in enumerate(cases):
        got = run(case.inputs)
        for name, expected in case.outputs.items():
            worst.add(f"golden {index}", name, expected, got[name])
    if verdict == "exact":
        values = [array for case in cases for name, array in case.outputs.items() if name == HIDDEN]
        tolerance = TOLERANCE * (1 + max((float(np.abs(array).max()) for array in values), default=0.0))
    else:
        tolerance = max(2 * worst.absolute, 0.01)
    return {"max_abs_difference": figure(worst.absolute), "tolerance": figure(tolerance)}


def _encode(checkpoint: Checkpoint, names: Sequence[str], evalset: EvalSet, rows: Sequence[int]) -> Arrays:
    pairs = [evalset.pairs[row] for row in rows] if evalset.pairs is not None else None
    return encode(checkpoint, names, [evalset.texts[row] for row in rows], pairs)


def _can_pad(checkpoint: Checkpoint) -> bool:
    return checkpoint.tokenizer is not None and checkpoint.tokenizer.pad_token is not None
