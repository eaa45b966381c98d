"""Which texts run together, and how their answers get back in order. It does not know ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")

# Most tokens of a batch, padding counted, by kind of device. On a CPU a batch should stay in the cache while it goes
# through a layer: more tokens make it slower (benchmarks/NOTES.md). A GPU wants to be filled.
# OpenVINO's number is the CPU's; it was not measured.
MAX_TOKENS = {"cpu": 160, "cuda": 16384, "openvino": 160}


def plan(lengths: Sequence[int], batch_size: int | None, max_tokens: int) -> list[list[int]]:
    """Partition rows of the given lengths (in tokens) into batches of row numbers.

    Rows are sorted by length first, so that a batch holds rows of about one length and little padding. A batch has
    at most `batch_size` rows, or without one at most `max_tokens` tokens, padding counted; a row that is longer runs
    alone.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if batch_size is not None:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches: list[list[int]] = []
    start = 0
    for end in range(1, len(order) + 1):
        # Lengths grow, so the next row would set the padded length of the whole batch.
        over = end < len(order) and (end - start + 1) * lengths[order[end]] > max_tokens
        if over or end == len(order):
            batches.append(order[start:end])
            start = end
    return batches


def windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of at most `size` items; the last may be shorter."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window
