"""The gates: how far a variant may be from PyTorch, and what becomes of one that is further.

`exact` has one meaning, which `meaning` puts into a sentence for the manifest: no element of any output of fp32 is
further from the PyTorch model, loaded afresh, than TOLERANCE, on every batch of random ids and texts that was tried,
and untorch's own pipeline, opened on the bundle, gives the texts the answers of the reference library's own call.
`close` is said of a reduced precision that keeps as much of PyTorch's answers as its gate asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch.bundle.manifest import Variant, Verdict
from untorch.bundle.precisions import Operators
from untorch_export.answers import Answer
from untorch_export.answers.figures import figure
from untorch_export.errors import GateError

# fp32: the largest difference from PyTorch in any element of any output. An answer's `scale` says which values are
# so large that the difference is taken relative to them.
TOLERANCE = 1e-4
# Reduced precisions. Points of accuracy (or of another figure of 100) that may be lost, where labels are given …
POINTS = 0.5
# … else the share of decisions that must stay the same …
AGREEMENT = 0.98
# … of fp16 always, since a GPU's rounding is no reason for another answer …
AGREEMENT_FP16 = 0.999
# … and for vectors, which have no label, the mean cosine with PyTorch's. On STS-B's validation set all-MiniLM-L6-v2's
# rank correlation falls from 0.8672 to 0.8664, 0.8655 and 0.8650 with mean cosines of 0.998, 0.993 and 0.963.
COSINE = 0.98
COSINE_FP16 = 0.9999

# What an answer's `kept` has to reach, by its `measure`: of eight bits, and of fp16.
LIMITS = {
    "same decisions": (AGREEMENT, AGREEMENT_FP16),
    "same next tokens": (AGREEMENT, AGREEMENT_FP16),
    "correlation": (AGREEMENT, AGREEMENT_FP16),
    "mean cosine": (COSINE, COSINE_FP16),
}


@dataclass
class Worst:
    """The largest difference met so far, and where. `excess` is the one that TOLERANCE limits."""

    answer: Answer
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
        self.excess = max(self.excess, float((difference / self.answer.scale(output, expected)).max()))
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


def judge(precision: str, answer: Answer, excess: float, kept: float) -> tuple[Verdict, dict[str, Any]]:
    """The verdict, and the gate it comes from: what was asked for and what was measured.

    fp32 is judged by `excess`, the largest difference over its scale; the others by `kept`, the share of the answers
    that stayed the same.
    """
    if precision == "fp32":
        return _at_most(answer.difference, TOLERANCE, excess, "exact")
    eight_bit, half = LIMITS[answer.measure]
    limit = half if precision == "fp16" else eight_bit
    gate = {"rule": answer.measure, "limit": limit, "measured": kept}
    return ("close" if kept >= limit else "failed"), gate


def judge_points(precision: str, name: str, lost: float) -> tuple[Verdict, dict[str, Any]]:
    """The verdict by labels: `lost` are the points of the figure `name`, of 100, that PyTorch has more."""
    return _at_most(f"{name} lost, points", POINTS, lost, "exact" if precision == "fp32" else "close")


def _at_most(rule: str, limit: float, measured: float, good: Verdict) -> tuple[Verdict, dict[str, Any]]:
    return (good if measured <= limit else "failed"), {"rule": rule, "limit": limit, "measured": figure(measured)}


def golden_tolerance(worst: Worst, verdict: Verdict, largest: float) -> float:
    """How far a variant may be from the golden outputs on another machine.

    fp32 may be as far off as anywhere, relative to the `largest` value that TOLERANCE is scaled by. Reduced
    precisions round differently from one processor to the next, so they get twice what was measured here.
    """
    return TOLERANCE * (1 + largest) if verdict == "exact" else max(2 * worst.absolute, 0.01)


def judged(variants: Mapping[str, Variant], found: Mapping[str, Parity]) -> dict[str, Variant]:
    """The variants with their verdicts and reports."""
    return {
        name: _uncompared(variant, found[variant.base])
        if variant.operators is Operators.PACKED
        else replace(variant, verdict=found[name].verdict, parity=found[name].report)
        for name, variant in variants.items()
    }


def _uncompared(variant: Variant, other: Parity) -> Variant:
    """A variant that the CPU has no operators for: it stands or falls with the `other` that has the same weights."""
    gate = {"rule": "not compared: it needs a GPU", "limit": 0, "measured": 0}
    report = {"outputs": {}, "gate": gate, "golden": other.report["golden"]}
    return replace(variant, verdict="failed" if other.verdict == "failed" else "unverified", parity=report)


def sort_out(variants: Mapping[str, Variant], keep_failed: bool) -> tuple[dict[str, Variant], dict[str, Variant]]:
    """(kept, refused). Raises GateError if nothing is kept."""
    refused = {} if keep_failed else {name: item for name, item in variants.items() if item.verdict == "failed"}
    kept = {name: item for name, item in variants.items() if name not in refused}
    if not kept:
        gates = "; ".join(f"{name}: {gate_text(item.parity['gate'])}" for name, item in refused.items())
        raise GateError(f"no variant came close enough to PyTorch, so nothing was written ({gates})")
    return kept, refused


def arrived(variants: Mapping[str, Variant], road: Mapping[str, Any], keep_failed: bool) -> dict[str, Variant]:
    """The variants after the whole road: fp32's report has it, and `failed` where an answer was not the library's.

    Raises GateError for that unless failed variants are kept: no other precision answers right where fp32 does not.
    """
    found = dict(variants)
    if "fp32" not in found:
        return found
    fp32 = found["fp32"]
    report = {**fp32.parity, "road": dict(road)}
    verdict: Verdict = fp32.verdict
    if road.get("same", 0) < road.get("texts", 0):
        report["gate"] = {"rule": f"answers of {road['library']}", "limit": road["texts"], "measured": road["same"]}
        verdict = "failed"
        if not keep_failed:
            raise GateError(
                f"the bundle answers {road['same']} of {road['texts']} texts as {road['library']} does, so nothing was "
                f"written; {road['text']!r}: {road['expected']} there, {road['got']} here"
            )
    report["meaning"] = meaning(report)
    found["fp32"] = replace(fp32, verdict=verdict, parity=report)
    return found


def meaning(report: Mapping[str, Any]) -> str:
    """What `exact` says of one variant, in a sentence: what was compared, on what, the rule, the worst case."""
    road = report["road"]
    name, worst = max(report["outputs"].items(), key=lambda item: float(item[1]["max_abs_difference"]))
    where = worst["worst"].get("case", "every case")
    answers = (
        f"whose answers from text were not compared ({road['not compared']})"
        if "not compared" in road
        else f"{road['same']} of {road['texts']} texts were answered as by {road['library']}"
    )
    return (
        f"every element of {', '.join(report['outputs'])} was compared with the PyTorch model, loaded afresh, on "
        f"{report['cases']} batches of random ids and texts, and may differ by {TOLERANCE:g} of 1 or of its scale; the "
        f"worst is {worst['max_abs_difference']:g} ({name}, {where}); {answers}"
    )


def gate_text(gate: Mapping[str, Any]) -> str:
    """A gate of a parity report in words."""
    return f"{gate['rule']} {gate['measured']:g}, limit {gate['limit']:g}"
