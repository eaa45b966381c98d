"""Rows of different lengths into rows of one length.

Padding happens here, on data that belongs to one call, never inside the shared Rust tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from tokenizers import Encoding

from untorch.errors import InputError
from untorch.tokenizer.strategies import Strategy

Array = np.ndarray[Any, np.dtype[Any]]


def padded_length(longest: int, multiple: int | None) -> int:
    """The length, in tokens, that rows of at most `longest` are padded to."""
    return -(-longest // multiple) * multiple if multiple else longest


# What of an encoding goes into a graph's inputs.
_READERS: dict[str, Callable[[Encoding], list[int]]] = {
    "input_ids": attrgetter("ids"),
    "attention_mask": attrgetter("attention_mask"),
    "token_type_ids": attrgetter("type_ids"),
}


def stack(encodings: Sequence[Encoding], names: Collection[str], dtype: DTypeLike) -> dict[str, Array]:
    """(batch, width) arrays of `input_ids`, `attention_mask`, `token_type_ids`, as far as asked for, of equal rows."""
    arrays = {}
    for name, read in _READERS.items():
        if name in names:
            arrays[name] = np.array([read(encoding) for encoding in encodings], dtype)
    return arrays


def collate(
    encodings: Sequence[Encoding],
    lengths: Sequence[int],
    names: Collection[str],
    *,
    width: int,
    pad_id: int,
    pad_type_id: int,
    left: bool,
    dtype: DTypeLike,
) -> dict[str, Array]:
    """The same of rows of these `lengths`, at most `width` tokens, which are padded to it."""
    fills = {"input_ids": pad_id, "token_type_ids": pad_type_id}
    total, places = sum(lengths), np.arange(width)
    counts = np.array(lengths, np.int64)[:, None]
    filled = places >= width - counts if left else places < counts
    # Nothing is padded before this, so the mask is where the rows are.
    arrays: dict[str, Array] = {"attention_mask": filled.astype(dtype)} if "attention_mask" in names else {}
    for name, fill in fills.items():
        if name in names:
            array = arrays[name] = np.full(filled.shape, fill, dtype)
            # All rows at once: an assignment a row takes twice as long.
            array[filled] = np.fromiter(chain.from_iterable(map(_READERS[name], encodings)), array.dtype, total)
    return arrays


def pad_columns(
    columns: Mapping[str, Any],
    strategy: Strategy,
    multiple: int | None,
    fills: Mapping[str, int],
    left: bool,
    main: str = "input_ids",
) -> dict[str, Any]:
    """Pad the rows of the columns named in `fills`, with the value given there; a single row stays one.

    `main` is the column of the ids. Arrays become lists. An `attention_mask` is added where `fills` names one. Raises
    InputError when columns differ in their number of rows.
    """
    columns = {name: _to_lists(value) for name, value in columns.items()}
    single = not isinstance(columns[main][0], list)
    if single:
        columns = {name: [value] for name, value in columns.items()}
    lengths = [len(ids) for ids in columns[main]]
    for name, rows in columns.items():
        if len(rows) != len(lengths):
            raise InputError(f"{name} has {len(rows)} rows, {main} {len(lengths)}")
    if "attention_mask" in fills and "attention_mask" not in columns:
        columns["attention_mask"] = [[1] * length for length in lengths]

    if strategy.padding != "do_not_pad":
        longest = max(lengths) if strategy.padding == "longest" else strategy.max_length
        assert longest is not None
        width = padded_length(longest, multiple)
        for name in fills.keys() & columns.keys():
            columns[name] = [
                _pad_row(row, fills[name], width - length, left)
                for row, length in zip(columns[name], lengths, strict=True)
            ]
    return {name: rows[0] for name, rows in columns.items()} if single else columns


def _pad_row(row: list[int], fill: int, missing: int, left: bool) -> list[int]:
    return [fill] * missing + row if left else row + [fill] * missing


def _to_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_to_lists(item) for item in value]
    return value
