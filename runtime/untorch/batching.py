"""Which texts run together, and how their answers get back in order. It does not know ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")

# A batch ends at whichever comes first. Beyond these sizes the matrix products no longer get faster on a CPU,
# while the padding inside a batch and the memory for its activations grow.
MAX_ROWS = 32
MAX_TOKENS = 4096


def plan(lengths: Sequence[int], batch_size: int | None = None, max_tokens: int = MAX_TOKENS) -> list[NDArray[np.intp]]:
    """Partition rows of the given lengths (in tokens) into batches of row numbers.

    Rows are sorted by length first, so that a batch holds rows of about one length and little padding. A batch has
    at most `batch_size` rows, or without one at most MAX_ROWS rows and `max_tokens` tokens, padding counted.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.intp), kind="stable")
    if batch_size is not None:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches: list[NDArray[np.intp]] = []
    start = 0
    for end in range(1, len(order) + 1):
        full = end - start >= MAX_ROWS
        # Lengths grow, so the next row would set the padded length of the whole batch.
        over = end < len(order) and (end - start + 1) * lengths[order[end]] > max_tokens
        if full or over or end == len(order):
            batches.append(order[start:end])
            start = end
    return batches


def windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of at most `size` items; the last may be shorter."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def restore(batches: Sequence[NDArray[np.intp]], results: Iterable[Sequence[Any]], count: int) -> list[Any]:
    """Put each batch's per-row results back at their rows' places: a list of `count` results in input order."""
    ordered: list[Any] = [None] * count
    for rows, answers in zip(batches, results, strict=True):
        for row, answer in zip(rows.tolist(), answers, strict=True):
            ordered[row] = answer
    return ordered
