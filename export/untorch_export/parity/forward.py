"""Is a variant the model it was made from? Every variant is run beside PyTorch, and what differs is measured.

fp32 must agree with PyTorch in every element. A reduced precision must give the same answers; how far its
probabilities move is reported with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch.bundle.golden import Case
from untorch.bundle.manifest import Verdict
from untorch_export.answers import HIDDEN, Answer, Arrays, Scores
from untorch_export.answers.figures import correct, figure
from untorch_export.checkpoint.inputs import encode, random_rows
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.checkpoint.tasks import Task
from untorch_export.parity import gates
from untorch_export.parity.evalset import EvalSet
from untorch_export.parity.gates import Parity, Worst
from untorch_export.parity.reference import Batch, Reference, any_mask, grid

Run = Callable[[Arrays], Arrays]
Tick = Callable[[int, int], None]

# Answers are compared one by one and in batches of this size, because some precisions let a row's neighbours in.
TOGETHER = 32
# Rows of a batch that are also run alone.
ALONE = 4


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
    outputs, answer = checkpoint.task.graph_outputs, checkpoint.answer
    worst = {precision: {name: Worst(answer) for name in outputs} for precision in variants}
    alone = {precision: Worst(answer) for precision in variants}
    expected_random: list[Scores] = []
    got_random: dict[str, list[Scores]] = {precision: [] for precision in variants}

    batches = [*grid(checkpoint, names), *_text_batches(checkpoint, names, evalset)]
    for done, batch in enumerate(batches):
        tick(done, len(batches) * 2)
        mask = _mask(batch.inputs)
        expected = reference(batch.inputs)
        expected_random += answer.read(expected, mask)
        for precision, run in variants.items():
            got = run(batch.inputs)
            got_random[precision] += answer.read(got, mask)
            for name in outputs:
                # What a reduced precision says of padding means nothing; fp32 says what PyTorch says.
                only = mask.astype(bool) if precision != "fp32" and answer.per_token(name) else None
                worst[precision][name].add(batch.name, name, expected[name], got[name], only)
            _compare_alone(batch, expected, got, run, reference, checkpoint.task, alone[precision])

    found: dict[str, dict[str, Any]] = {precision: {} for precision in variants}
    if evalset is None:
        for precision, got_scores in got_random.items():
            found[precision] = {"source": "random ids", **_compare(answer, expected_random, {"batch 1": got_scores})}
    else:
        found = _compare_texts(checkpoint, reference, variants, names, evalset, lambda a, b: tick(a + b, b * 2))
    result = {}
    for precision, run in variants.items():
        report: dict[str, Any] = {
            "cases": len(batches),
            "outputs": {name: worst[precision][name].to_json() for name in outputs},
            "row_alone": alone[precision].to_json(),
            "answers": found[precision],
        }
        excess = max(item.excess for item in (*worst[precision].values(), alone[precision]))
        verdict, report["gate"] = _judge(precision, answer, excess, found[precision])
        if precision == "fp16":
            finite = _finite(run(any_mask(checkpoint, names).inputs))
            report["any_mask"] = {"finite": finite}
            if not finite:
                verdict, report["gate"] = "failed", {"rule": "numbers under any mask", "limit": 1, "measured": 0}
        report["golden"] = _golden(run, golden, answer, verdict)
        result[precision] = Parity(verdict, report)
    return result


def holds(checkpoint: Checkpoint, run: Run, names: Sequence[str], length: int) -> bool:
    """Whether the fp32 graph is still the model, read afresh, for a text of `length` tokens."""
    inputs = random_rows(checkpoint, names, 1, length, np.random.default_rng(2))
    worst = Worst(checkpoint.answer)
    got = run(inputs)
    with Reference(checkpoint) as reference:
        for name, want in reference(inputs).items():
            worst.add("", name, want, got[name])
    return worst.excess <= gates.TOLERANCE


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


def _compare_alone(
    batch: Batch, expected: Arrays, got: Arrays, run: Run, reference: Reference, task: Task, worst: Worst
) -> None:
    """Run the last rows of a padded batch by themselves, without padding, and compare.

    A row that PyTorch answers differently by itself says nothing: XLNet classifies at the last position, padded or not,
    and FNet mixes padding in.
    """
    mask = _mask(batch.inputs)
    size = len(mask)
    for row in range(max(1, size - ALONE), size):
        length = int(mask[row].sum(-1).max())
        inputs = {name: array[row : row + 1, ..., :length] for name, array in batch.inputs.items()}
        found = Worst(worst.answer)
        _add_row(found, batch, run(inputs), got, row, length, task)
        if found.excess > gates.TOLERANCE:
            own = Worst(worst.answer)
            _add_row(own, batch, reference(inputs), expected, row, length, task)
            if own.excess > gates.TOLERANCE:
                continue
        _add_row(worst, batch, run(inputs), got, row, length, task)


def _add_row(worst: Worst, batch: Batch, alone: Arrays, together: Arrays, row: int, length: int, task: Task) -> None:
    for name in task.graph_outputs:
        rest = together[name][row : row + 1]
        if task.answer.per_token(name):
            rest = rest[:, :length]
        worst.add(f"{batch.name}, row {row} alone", name, alone[name], rest)


def _mask(inputs: Arrays) -> NDArray[Any]:
    """Which positions are real: all of them for a model that cannot be told."""
    return inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))


def _compare_texts(
    checkpoint: Checkpoint,
    reference: Reference,
    variants: dict[str, Run],
    names: Sequence[str],
    evalset: EvalSet,
    tick: Tick,
) -> dict[str, dict[str, Any]]:
    """Answers to real text, each alone and in batches of TOGETHER, against PyTorch's."""
    answer, count = checkpoint.answer, len(evalset.texts)
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
            mask = _mask(inputs)
            if last:  # PyTorch's rows do not depend on their neighbours, and batches are faster
                _place(expected, rows, answer.read(reference(inputs), mask))
            for precision, run in variants.items():
                _place(got[precision][group], rows, answer.read(run(inputs), mask))
    return {
        precision: {**evalset.about, **_compare(answer, expected, got[precision], evalset.labels)}
        for precision in variants
    }


def _place(target: list[Scores], rows: Sequence[int], scores: Sequence[Scores]) -> None:
    for row, table in zip(rows, scores, strict=True):
        target[row] = table


def _compare(
    answer: Answer, expected: list[Scores], got: dict[str, list[Scores]], labels: list[int] | None = None
) -> dict[str, Any]:
    """The figures of each batch size against PyTorch, and of the batch sizes against each other."""
    report: dict[str, Any] = {}
    for group, scores in got.items():
        report[group] = answer.figures(expected, scores)
        if labels is not None:
            report[group]["accuracy"] = {
                "correct": correct(scores, labels),
                "pytorch": correct(expected, labels),
                "of": len(labels),
            }
    if len(got) == 2:
        first, second = got.values()
        report["neighbours"] = answer.neighbours(first, second)
    return report


def _judge(precision: str, answer: Answer, excess: float, found: dict[str, Any]) -> tuple[Verdict, dict[str, Any]]:
    """The verdict on one variant, in the batch size where it keeps least."""
    groups = [item for key, item in found.items() if key.startswith("batch ")]
    if "accuracy" in groups[0] and precision not in ("fp32", "fp16"):
        lost = max(100 * (a["pytorch"] - a["correct"]) / a["of"] for a in (group["accuracy"] for group in groups))
        return gates.judge_points(precision, "accuracy", lost)
    return gates.judge(precision, answer, excess, min(answer.kept(group) for group in groups))


def _golden(run: Run, cases: Sequence[Case], answer: Answer, verdict: Verdict) -> dict[str, float]:
    """How far the variant is from the golden outputs here, and how far it may be elsewhere."""
    worst = Worst(answer)
    for index, case in enumerate(cases):
        got = run(case.inputs)
        for name, expected in case.outputs.items():
            worst.add(f"golden {index}", name, expected, got[name])
    values = [array for case in cases for name, array in case.outputs.items() if name == HIDDEN]
    largest = max((float(np.abs(array).max()) for array in values), default=0.0)
    tolerance = gates.golden_tolerance(worst, verdict, largest)
    return {"max_abs_difference": figure(worst.absolute), "tolerance": figure(tolerance)}


def _encode(checkpoint: Checkpoint, names: Sequence[str], evalset: EvalSet, rows: Sequence[int]) -> Arrays:
    pairs = [evalset.pairs[row] for row in rows] if evalset.pairs is not None else None
    return encode(checkpoint, names, [evalset.texts[row] for row in rows], pairs)


def _can_pad(checkpoint: Checkpoint) -> bool:
    return checkpoint.tokenizer is not None and checkpoint.tokenizer.pad_token is not None
