"""Counters, gauges and histograms, and Prometheus' text of them.

Values live in one row of float64 numbers for each process, so that replicas can share a piece of memory and any of
them tells the sums. The series are therefore named when the application is made, in the same order in each process.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Sequence

# The buckets of Text Embeddings Inference: durations from 10 µs on, each 1.5 times the last; sizes are powers of two.
DURATIONS = tuple(1e-5 * 1.5**k for k in range(35))
SIZES = tuple(float(2**k) for k in range(20))

# Numbers that one process' series may take.
ROW = 16384


class Counter:
    """A number that grows; a gauge is set instead."""

    __slots__ = ("_place", "_values")

    def __init__(self, values: memoryview[float], place: int) -> None:
        self._values = values
        self._place = place

    def add(self, amount: float = 1.0) -> None:
        """Count `amount` more."""
        self._values[self._place] += amount

    def set(self, value: float) -> None:
        """Set a gauge."""
        self._values[self._place] = value


class Histogram:
    """How often values fell into each bucket, and their sum."""

    __slots__ = ("_bounds", "_place", "_values")

    def __init__(self, values: memoryview[float], place: int, bounds: Sequence[float]) -> None:
        self._values = values
        self._place = place
        self._bounds = bounds

    def observe(self, value: float) -> None:
        """Count one value."""
        values = self._values
        values[self._place + bisect_left(self._bounds, value)] += 1
        values[self._place + len(self._bounds) + 1] += value


class Metrics:
    """All series of a server. `memory` holds a row for each of `replicas` processes; `replica` is the own one."""

    def __init__(self, memory: mmap.mmap | None = None, replicas: int = 1, replica: int = 0) -> None:
        whole = memoryview(bytearray(8 * ROW * replicas) if memory is None else memory).cast("d")
        self._rows = [whole[row * ROW : (row + 1) * ROW] for row in range(replicas)]
        self._own = self._rows[replica]
        self._used = 0
        # Name → type, help; then of each series its labels and place.
        self._families: dict[str, tuple[str, str, list[tuple[str, int, Sequence[float]]]]] = {}

    def _series(self, name: str, kind: str, text: str, labels: dict[str, str], bounds: Sequence[float]) -> int:
        place, self._used = self._used, self._used + (len(bounds) + 2 if kind == "histogram" else 1)
        if self._used > ROW:
            raise ValueError(f"more than {ROW} numbers in the metrics")
        written = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
        self._families.setdefault(name, (kind, text, []))[2].append((written, place, bounds))
        return place

    def counter(self, name: str, text: str, **labels: str) -> Counter:
        """A new counter."""
        return Counter(self._own, self._series(name, "counter", text, labels, ()))

    def gauge(self, name: str, text: str, **labels: str) -> Counter:
        """A new gauge."""
        return Counter(self._own, self._series(name, "gauge", text, labels, ()))

    def histogram(self, name: str, text: str, bounds: Sequence[float], **labels: str) -> Histogram:
        """A new histogram."""
        return Histogram(self._own, self._series(name, "histogram", text, labels, bounds), bounds)

    def render(self) -> bytes:
        """Prometheus' text format, version 0.0.4."""
        lines = []
        for name, (kind, text, series) in self._families.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            for labels, place, bounds in series:
                if kind == "histogram":
                    lines += self._buckets(name, labels, place, bounds)
                else:
                    lines.append(f"{name}{f'{{{labels}}}' if labels else ''} {self._sum(place):.17g}")
        return ("\n".join(lines) + "\n").encode()

    def _sum(self, place: int) -> float:
        return sum(row[place] for row in self._rows)

    def _buckets(self, name: str, labels: str, place: int, bounds: Sequence[float]) -> list[str]:
        lines, total = [], 0.0
        comma = "," if labels else ""
        for index, bound in enumerate([*bounds, float("inf")]):
            total += self._sum(place + index)
            shown = "+Inf" if bound == float("inf") else f"{bound:.6g}"
            lines.append(f'{name}_bucket{{{labels}{comma}le="{shown}"}} {total:.17g}')
        braces = f"{{{labels}}}" if labels else ""
        lines.append(f"{name}_sum{braces} {self._sum(place + len(bounds) + 1):.17g}")
        lines.append(f"{name}_count{braces} {total:.17g}")
        return lines


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
