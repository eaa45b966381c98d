"""Computes the figures of the report's GPU part from a results file of `benchmarks/gpu`.

The file is written after every step, so it may stop anywhere: what is not in it was not measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.figures import three_digits
from benchmarks.goals import Goal

# When something began and when it ended, in milliseconds; and what it was.
Interval = tuple[float, float]
Span = tuple[str, float, float]

# The kinds of work in a timeline, in the order of its lanes: the CPU's for the GPU, then the GPU's.
GPU = "model"
HOST = ("tokenize", "arrays")
LANES = (*HOST, GPU)

# A timeline is drawn up to so many batches; with more, single ones could not be told apart.
_BATCHES = 100
# Gaps narrower than this share of a timeline are closed. It is drawn 620 pixels wide at most, so they would not show.
_PIXEL = 1 / 600


def goals(data: dict[str, Any]) -> list[Goal]:
    """The goals, met or missed by the numbers that were measured."""
    return [_goal(row["goal"], row["wanted"], row["measured"]) for row in data.get("goals", [])]


def _goal(name: str, wanted: str, measured: float | None) -> Goal:
    found = re.fullmatch(r"(<=|>=) ([\d.]+)( ms|x)?", wanted)
    if found is None:
        raise ValueError(f"{name} wants {wanted!r}: it should be <= or >= a number of ms, of x or of nothing")
    sign, bound, unit = found[1], float(found[2]), found[3] or ""
    shown = f"{'≤' if sign == '<=' else '≥'} {three_digits(bound)}{unit.replace('x', '×')}"
    if measured is None:
        return Goal(name, shown)
    met = measured <= bound if sign == "<=" else measured >= bound
    return Goal(name, shown, f"{measured:.2f}×" if unit == "x" else three_digits(measured) + unit, met)


def rows(data: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """The rows of one workload, in the order in which they were measured."""
    return [row for row in data.get("results", []) if row["what"] == what]


def engines(found: Iterable[dict[str, Any]]) -> list[str]:
    """The engines of these rows, untorch's first."""
    return sorted(dict.fromkeys(row["engine"] for row in found), key=lambda engine: not engine.startswith("untorch"))


def cases(found: Iterable[dict[str, Any]]) -> list[str]:
    """The cases of these rows, batches and lengths by size."""
    return sorted({row["case"] for row in found}, key=lambda case: [int(number) for number in case.split("x")])


def best_runs(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the runs over many sentences each engine's best, the fastest engine first."""
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows(data, "sentences"), key=lambda row: -row["texts_per_second"]):
        found.setdefault(row["engine"], row)
    return list(found.values())


class Timeline(NamedTuple):
    """The intervals of each kind of work in a run, and shares of its time; `gpu` is None if that was not noted."""

    lanes: dict[str, list[Interval]]
    shown: float
    whole: float
    gpu: float | None
    host: float
    both: float


def timeline(spans: Sequence[Span], whole: float | None = None) -> Timeline:
    """The timeline of a run of `whole` milliseconds (default: until the end of the last span) from its spans."""
    whole = max((end for _, _, end in spans), default=0.0) if whole is None else whole
    batches = sorted(end for kind, _, end in spans if kind == GPU)
    shown = batches[_BATCHES - 1] if len(batches) > _BATCHES else whole
    kinds = dict.fromkeys(kind for kind, _, _ in spans)
    lanes = {
        kind: merged(((begin, min(end, shown)) for begin, end in _of(spans, kind) if begin < shown), shown * _PIXEL)
        for kind in sorted(kinds, key=lambda kind: LANES.index(kind) if kind in LANES else len(LANES))
    }

    def share(*kinds: str) -> float:
        return sum(end - begin for begin, end in merged(_of(spans, *kinds))) / whole if whole else 0.0

    gpu, host = share(GPU), share(*HOST)
    return Timeline(lanes, shown, whole, gpu if batches else None, host, gpu + host - share(GPU, *HOST))


def _of(spans: Iterable[Span], *kinds: str) -> list[Interval]:
    return [(begin, end) for kind, begin, end in spans if kind in kinds]


def merged(intervals: Iterable[Interval], gap: float = 0.0) -> list[Interval]:
    """The union of the intervals, in order; gaps of up to `gap` between them are closed."""
    found: list[Interval] = []
    for begin, end in sorted(intervals):
        if found and begin - found[-1][1] <= gap:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found
