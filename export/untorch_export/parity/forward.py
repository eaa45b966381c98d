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
from untorch_export.parity import gates
from untorch_export.parity.evalset import EvalSet, shorter
from untorch_export.parity.gates import Parity, Worst
from untorch_export.parity.reference import Batch, Reference, any_mask, grid

Run = Callable[[Arrays], Arrays]
Tick = Callable[[int, int], None]

# Answers are compared one by one and in batches of this size, because some precisions let a row's neighbours in.
TOGETHER = 32
# Rows of a batch that are also run alone.
ALONE = 2
# Texts that fp32 is asked one by one, beside all of them in batches.
FEW = 8
# Long texts that fp32 is asked beside a batch of short ones, where no other precision is compared.
LONG = 4


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

    A reduced precision is judged by its share of equal answers, which takes many texts. fp32 is judged by its worst
    element alone, where a text more shows nothing that the random batches of every size, length and padding do not.
    Without another precision, it is asked one batch of the built-in texts, of TOGETHER short ones in all scripts, the
    LONG longest, and FEW one by one, all element by element as ever. A user's own texts are asked in any case.
    """
    answer = checkpoint.answer
    if evalset is not None and set(variants) == {"fp32"} and evalset.about["source"] == "built-in":
        evalset = shorter(evalset, TOGETHER, LONG)
    found = {precision: _Found(checkpoint, precision, run) for precision, run in variants.items()}
    batches = list(grid(checkpoint, names))
    expected_random: list[Scores] = []
    for done, batch in enumerate(batches):
        tick(done, len(batches) * 2)
        expected = reference(batch.inputs)
        expected_random += answer.read(expected, _mask(batch.inputs))
        for item in found.values():
            item.scores["random"] += item.compare(batch, expected, reference)
    if evalset is None:
        for item in found.values():
            figures = _compare(answer, expected_random, {"batch 1": item.scores["random"]})
            item.answers = {"source": "random ids", **figures}
    else:
        _compare_texts(checkpoint, reference, found, names, evalset, lambda a, b: tick(a + b, b * 2))
    return {precision: item.parity(names, golden) for precision, item in found.items()}


class _Found:
    """What was found of one variant so far."""

    def __init__(self, checkpoint: Checkpoint, precision: str, run: Run) -> None:
        self.precision, self.run = precision, run
        self.scores: dict[str, list[Scores]] = {"random": []}
        self.answers: dict[str, Any] = {}
        self._checkpoint, self._answer = checkpoint, checkpoint.answer
        self._worst = {name: Worst(self._answer) for name in checkpoint.task.graph_outputs}
        self._alone = Worst(self._answer)
        self._cases = 0

    def compare(self, batch: Batch, expected: Arrays, reference: Reference | None = None) -> list[Scores]:
        """Run a batch, compare it element by element, and read its answers.

        Where the `reference` is given, some of the batch's rows are compared once more, each by itself.
        `expected` may be longer than the batch, a row of a padded batch of the reference's, or empty: then the batch is
        read only.
        """
        mask = _mask(batch.inputs)
        got = self.run(batch.inputs)
        self._cases += 1
        for name, worst in self._worst.items() if expected else ():
            tokens = self._answer.per_token(name)
            want = expected[name][:, : mask.shape[-1]] if tokens else expected[name]
            # What a reduced precision says of padding means nothing; fp32 says what PyTorch says.
            real = mask.astype(bool) if tokens and self.precision != "fp32" else None
            worst.add(batch.name, name, want, got[name], real)
        if reference is not None:
            self._compare_alone(batch, expected, got, reference)
        return self._answer.read(got, mask)

    def _compare_alone(self, batch: Batch, expected: Arrays, got: Arrays, reference: Reference) -> None:
        """Run the last rows of a padded batch by themselves, without padding, and compare.

        A row that PyTorch answers differently by itself says nothing: XLNet classifies at the last position, padded or
        not, and FNet mixes padding in.
        """
        mask = _mask(batch.inputs)
        size = len(mask)
        for row in range(max(1, size - ALONE), size):
            length = int(mask[row].sum(-1).max())
            inputs = {name: array[row : row + 1, ..., :length] for name, array in batch.inputs.items()}
            alone = self.run(inputs)
            if self._moved(row, length, alone, got) and self._moved(row, length, reference(inputs), expected):
                continue
            for name, one, rest in self._rows(row, length, alone, got):
                self._alone.add(f"{batch.name}, row {row} alone", name, one, rest)

    def _moved(self, row: int, length: int, alone: Arrays, together: Arrays) -> bool:
        """Whether a row's answer depends on what it is padded with."""
        found = Worst(self._answer)
        for name, one, rest in self._rows(row, length, alone, together):
            found.add("", name, one, rest)
        return found.excess > gates.TOLERANCE

    def _rows(self, row: int, length: int, alone: Arrays, together: Arrays) -> Iterator[tuple[str, Any, Any]]:
        """(output, the row by itself, the row in a batch) without what is padding."""
        for name in self._worst:
            rest = together[name][row : row + 1]
            yield name, alone[name], rest[:, :length] if self._answer.per_token(name) else rest

    def parity(self, names: Sequence[str], golden: Sequence[Case]) -> Parity:
        """The verdict and the report."""
        report: dict[str, Any] = {
            "cases": self._cases,
            "outputs": {name: worst.to_json() for name, worst in self._worst.items()},
            "row_alone": self._alone.to_json(),
            "answers": self.answers,
        }
        excess = max(worst.excess for worst in (*self._worst.values(), self._alone))
        verdict, report["gate"] = _judge(self.precision, self._answer, excess, self.answers)
        if self.precision == "fp16":
            finite = _finite(self.run(any_mask(self._checkpoint, names).inputs))
            report["any_mask"] = {"finite": finite}
            if not finite:
                verdict, report["gate"] = "failed", {"rule": "numbers under any mask", "limit": 1, "measured": 0}
        report["golden"] = _golden(self.run, golden, self._answer, verdict)
        return Parity(verdict, report)


def _mask(inputs: Arrays) -> NDArray[Any]:
    """Which positions are real: all of them, where the model cannot be told."""
    return inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))


def _compare_texts(
    checkpoint: Checkpoint,
    reference: Reference,
    found: dict[str, _Found],
    names: Sequence[str],
    evalset: EvalSet,
    tick: Tick,
) -> None:
    """Answers to real text, in batches of TOGETHER and each alone, against PyTorch's, element by element as well.

    PyTorch's rows do not depend on their neighbours, so that it runs in batches only, where texts can be padded. fp32
    is right in every element or wrong, for which some texts alone are enough.
    """
    count = len(evalset.texts)
    # By length, as the runtime batches them.
    order = sorted(range(count), key=lambda index: len(evalset.texts[index]))
    together = [order[at : at + TOGETHER] for at in range(0, count, TOGETHER)] if _can_pad(checkpoint) else []
    batches = [*together, *([index] for index in range(count))]
    blank: Scores = np.empty(0, np.float32)
    expected: list[Scores] = [blank] * count
    few: dict[int, Arrays] = {}
    for done, rows in enumerate(batches):
        tick(done, len(batches))
        group = f"batch {TOGETHER}" if done < len(together) else "batch 1"
        name = f"text {rows[0]}" if len(rows) == 1 else f"{len(rows)} texts"
        batch = Batch(name, _encode(checkpoint, names, evalset, rows))
        if done >= len(together) and together:
            outputs = few.get(rows[0], {})
        else:
            outputs = reference(batch.inputs)
            _place(expected, rows, checkpoint.answer.read(outputs, _mask(batch.inputs)))
            few |= {
                row: {key: array[[at]] for key, array in outputs.items()} for at, row in enumerate(rows) if row < FEW
            }
        for item in found.values():
            if item.precision == "fp32" and together and len(rows) == 1 and rows[0] >= FEW:
                continue
            scores = item.scores.setdefault(group, [blank] * count)
            _place(scores, rows, item.compare(batch, outputs))
    for item in found.values():
        groups = {group: item.scores[group] for group in ("batch 1", f"batch {TOGETHER}") if group in item.scores}
        item.answers = {**evalset.about, **_compare(checkpoint.answer, expected, groups, evalset.labels)}


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


def _place(target: list[Scores], rows: Sequence[int], scores: Sequence[Scores]) -> None:
    for row, table in zip(rows, scores, strict=True):
        target[row] = table


def _compare(
    answer: Answer, expected: list[Scores], got: dict[str, list[Scores]], labels: list[int] | None = None
) -> dict[str, Any]:
    """The figures of each batch size against PyTorch, and of the batch sizes against each other."""
    report: dict[str, Any] = {}
    for group, scores in got.items():
        asked = _asked(scores)
        report[group] = answer.figures([expected[at] for at in asked], [scores[at] for at in asked])
        if labels is not None and len(asked) == len(labels):
            report[group]["accuracy"] = {
                "correct": correct(scores, labels),
                "pytorch": correct(expected, labels),
                "of": len(labels),
            }
    if len(got) == 2:
        first, second = got.values()
        asked = [at for at in _asked(first) if second[at].size]
        report["neighbours"] = answer.neighbours([first[at] for at in asked], [second[at] for at in asked])
    return report


def _asked(scores: list[Scores]) -> list[int]:
    """The texts that were asked."""
    return [at for at, table in enumerate(scores) if table.size]


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
