"""Reading texts from txt, csv and jsonl files, and writing answers to them, one row at a time."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from untorch.errors import InputError

FORMATS = (".txt", ".csv", ".jsonl")


def read(file: IO[str], kind: str, name: str) -> Iterator[tuple[int, Any]]:
    """(line number, input) of each row: a text, or {"text", "text_pair"} where the row has both.

    txt: a line is a text. csv: the columns `text` and `text_pair`, or the first column where neither is named.
    jsonl: a string, or an object with those fields. Raises InputError naming the line of a malformed row.
    """
    reader = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl}.get(kind)
    if reader is None:
        raise InputError(f"{name}: cannot read {kind or 'a file without an ending'}; choose {', '.join(FORMATS)}")
    try:
        yield from reader(file, name)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: {error}") from error


def _read_txt(file: IO[str], name: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        yield number, line.rstrip("\r\n")


def _read_csv(file: IO[str], name: str) -> Iterator[tuple[int, Any]]:
    rows = csv.reader(file)
    try:
        header = next(rows, [])
        column = header.index("text") if "text" in header else 0
        second = header.index("text_pair") if "text_pair" in header else None
        for row in rows:
            if len(row) <= max(column, second or 0):
                raise InputError(f"{name}, line {rows.line_num}: the row has {len(row)} columns, too few")
            text = row[column]
            yield rows.line_num, text if second is None else {"text": text, "text_pair": row[second]}
    except csv.Error as error:
        raise InputError(f"{name}, line {rows.line_num}: {error}") from error


def _read_jsonl(file: IO[str], name: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{name}, line {number}: not valid JSON: {error}") from error
        if isinstance(row, dict):
            if "text" not in row:
                raise InputError(f'{name}, line {number}: the object has no field "text"')
            row = {key: row[key] for key in ("text", "text_pair") if key in row}
            row = row if "text_pair" in row else row["text"]
        yield number, row


def flat(item: Any, answer: Any) -> dict[str, Any]:
    """One output row: the input's text, then the answer's fields, or the answer itself under `result`."""
    row = dict(item) if isinstance(item, dict) else {"text": item}
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict):
        answer = answer[0]
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
def writing(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
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
        yield _writer(file, path.suffix)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _writer(file: IO[str], kind: str) -> Callable[[dict[str, Any]], None]:
    if kind == ".jsonl":
        return lambda row: print(json.dumps(row, ensure_ascii=False), file=file)
    if kind == ".txt":
        return lambda row: print(line(row), file=file)
    table = csv.writer(file)
    header: list[str] = []

    def write(row: dict[str, Any]) -> None:
        if not header:
            header.extend(row)
            table.writerow(header)
        cells = (row.get(name) for name in header)
        table.writerow([json.dumps(cell) if isinstance(cell, (list, dict)) else cell for cell in cells])

    return write


def line(row: dict[str, Any]) -> str:
    """A row for people: scores to four places first, then the text."""
    cells = [f"{value:.4f}" if isinstance(value, float) else str(value) for key, value in row.items() if key != "text"]
    return "  ".join([*cells, str(row["text"])])
