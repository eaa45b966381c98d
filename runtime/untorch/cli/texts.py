"""Reading texts from txt, csv and jsonl files, and writing answers to them, one row at a time."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from untorch.errors import InputError

FORMATS = (".txt", ".csv", ".jsonl")


def read(file: IO[str], kind: str, name: str, fields: Sequence[str] = ("text",)) -> Iterator[tuple[int, Any]]:
    """(line number, input) of each row: a text, or an object of the task's `fields` where the row has several.

    txt: a line is a text. csv: the columns of those names, or the first column where the first field is no column.
    jsonl: a string, or an object with those fields; others are left out. Raises InputError naming the line of a
    malformed row.
    """
    reader = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl}.get(kind)
    if reader is None:
        raise InputError(f"{name}: cannot read {kind or 'a file without an ending'}; choose {', '.join(FORMATS)}")
    try:
        yield from reader(file, name, fields)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: {error}") from error


def _read_txt(file: IO[str], _name: str, _fields: Sequence[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        yield number, line.rstrip("\r\n")


def _read_csv(file: IO[str], name: str, fields: Sequence[str]) -> Iterator[tuple[int, Any]]:
    rows = csv.reader(file)
    try:
        header = next(rows, [])
        columns = {field: header.index(field) for field in fields if field in header}
        columns = {fields[0]: columns.get(fields[0], 0), **columns}
        for row in rows:
            if len(row) <= max(columns.values()):
                raise InputError(f"{name}, line {rows.line_num}: the row has {len(row)} columns, too few")
            yield rows.line_num, _item({field: row[column] for field, column in columns.items()})
    except csv.Error as error:
        raise InputError(f"{name}, line {rows.line_num}: {error}") from error


def _read_jsonl(file: IO[str], name: str, fields: Sequence[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{name}, line {number}: not valid JSON: {error}") from error
        if isinstance(row, dict):
            if fields[0] not in row:
                raise InputError(f'{name}, line {number}: the object has no field "{fields[0]}"')
            row = _item({field: row[field] for field in fields if field in row})
        yield number, row


def _item(values: dict[str, Any]) -> Any:
    """A row's fields as a pipeline takes them: the first alone is a text."""
    return values if len(values) > 1 else next(iter(values.values()))


def flat(item: Any, answer: Any, fields: Sequence[str] = ("text",)) -> dict[str, Any]:
    """One output row: the input's fields, then the answer's, or the answer itself under `result`."""
    row = dict(item) if isinstance(item, dict) else {fields[0]: item}
    if isinstance(answer, dict):
        return row | {key: to_plain(value) for key, value in answer.items() if key not in row}
    return row | {"result": to_plain(answer)}


def to_plain(value: Any) -> Any:
    """Numpy arrays and numbers as the lists and numbers JSON knows."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


@contextmanager
def writing(path: Path, fields: Sequence[str] = ("text",)) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes one row to `path` in the format of its ending; the file appears when all is written.

    Until then the rows are in `path` + ".part", which is kept if something fails.
    """
    if path.suffix not in FORMATS:
        raise InputError(
            f"{path}: cannot write {path.suffix or 'a file without an ending'}; choose {', '.join(FORMATS)}"
        )
    part = path.with_name(f"{path.name}.part")
    try:
        file = part.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"cannot write {part}: {error.strerror}") from error
    with file:
        yield _writer(file, path.suffix, fields)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _writer(file: IO[str], kind: str, fields: Sequence[str]) -> Callable[[dict[str, Any]], None]:
    if kind == ".jsonl":
        return lambda row: print(json.dumps(row, ensure_ascii=False), file=file)
    if kind == ".txt":
        return lambda row: print(line(row, fields), file=file)
    table = csv.writer(file)
    header: list[str] = []

    def write(row: dict[str, Any]) -> None:
        if not header:
            header.extend(row)
            table.writerow(header)
        cells = (row.get(name) for name in header)
        table.writerow([json.dumps(cell) if isinstance(cell, (list, dict)) else cell for cell in cells])

    return write


def line(row: dict[str, Any], fields: Sequence[str] = ("text",)) -> str:
    """A row for people: the answer, with scores to four places, then the first field of the input."""
    answer = [_cell(value) for key, value in row.items() if key not in fields]
    return "  ".join([*answer, str(row[fields[0]])])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        return " ".join(map(_cell, value.values()))
    return "; ".join(map(_cell, value)) if isinstance(value, list) else str(value)
