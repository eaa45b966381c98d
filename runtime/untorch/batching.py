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


def batches(
    lengths: Sequence[int], batch_size: int | None, max_tokens: int, *, padding: bool = True
) -> list[list[int]]:
    """Partition rows of the given lengths (in tokens) into batches of row numbers.

    Rows are sorted by length first, so that a batch holds rows of about one length and little padding. A batch has
    at most `batch_size` rows, or without one at most `max_tokens` tokens, padding counted; a row that is longer runs
    alone. Without `padding` the rows of a batch have one length.

        batches([3, 9, 4], None, 12)  # [[0, 2], [1]]
    """

    def fits(row: int, batch: list[int]) -> bool:
        if not padding and lengths[row] != lengths[batch[0]]:
            return False
        # Lengths grow, so that the newest row sets the padded length of the whole batch.
        return len(batch) < batch_size if batch_size is not None else (len(batch) + 1) * lengths[row] <= max_tokens

    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if found and fits(row, found[-1]):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of at most `size` items; the last may be shorter."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window
