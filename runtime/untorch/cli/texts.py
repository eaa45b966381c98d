"""Reading texts from txt, csv and jsonl files, and writing answers to them, one row at a time."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from untorch.errors import InputError

FORMATS = (".txt", ".csv", ".jsonl")

# The marks that editors and spreadsheets put before a text to name its encoding. The four bytes of UTF-32's begin with
# the two of UTF-16's, so they are looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Spreadsheets use the list separator of the user's language.
_DELIMITERS = ",;\t"
# Characters of one cell of a csv file: as many as the module can count.
_FIELD_LIMIT = 2**31 - 1

logger = logging.getLogger(__name__)


def kind_of(path: Path, doing: str = "read") -> str:
    """A file's format, by its ending in any case. Raises InputError for one that is not in FORMATS."""
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise InputError(
            f"{path}: cannot {doing} {path.suffix or 'a file without an ending'}; choose {', '.join(FORMATS)}"
        )
    return kind


def encoding_of(start: bytes) -> str:
    """The encoding of a text that starts with these bytes: what its byte order mark says, else UTF-8."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def opened(path: Path | None, encoding: str | None = None) -> IO[str]:
    """Open a text file, or standard input (None), in its encoding (default: see `encoding_of`), line endings kept.

    Raises InputError for a file that cannot be opened and for an encoding that does not exist.
    """
    try:
        # A reader of its own for standard input: a thread that waits in Python's would abort the interpreter's end.
        file = path.open("rb") if path is not None else open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
    except OSError as error:
        raise InputError(f"cannot read {path or 'standard input'}: {error.strerror or error}") from error
    try:
        # Looked at without being read: a pipe gives its bytes once.
        return io.TextIOWrapper(file, encoding=encoding or encoding_of(file.peek(4)), newline="")
    except LookupError as error:
        file.close()
        raise InputError(f"{error}; name one that Python knows, such as utf-8 or cp1252") from error


def read(lines: Iterable[str], kind: str, name: str, fields: Sequence[str] = ("text",)) -> Iterator[tuple[int, Any]]:
    """(line number, input) of each row: a text, or an object of the task's `fields` where the row has several.

    txt: a line is a text, a blank one too. csv: the columns of those names, or the first column where the first field
    is no column; blank lines are no rows, and the cells may be separated by `,`, `;` or tabs. jsonl: a string, or an
    object with those fields; others are left out. Raises InputError naming the line of a malformed row.
    """
    reader = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl}[kind]
    number = 0
    try:
        for number, item in reader(lines, name, fields):
            yield number, item
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, after line {number}: not {error.encoding} text ({error.reason}). Save it as UTF-8, or name its "
            "encoding: --encoding cp1252"
        ) from error


def _read_txt(lines: Iterable[str], _name: str, _fields: Sequence[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        yield number, line.rstrip("\r\n")


def _read_csv(lines: Iterable[str], name: str, fields: Sequence[str]) -> Iterator[tuple[int, Any]]:
    lines = iter(lines)
    first = next(lines, "")
    skipped = first[:4].lower() == "sep="  # Excel's own way to name the separator
    header_line = next(lines, "") if skipped else first
    delimiter = first[4:5] if skipped else _delimiter(header_line, fields)
    csv.field_size_limit(_FIELD_LIMIT)
    # Strict: a quote that is never closed would otherwise swallow the rest of the file.
    rows = csv.reader(_chained(header_line, lines), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        columns = {field: header.index(field) for field in fields if field in header}
        if fields[0] not in columns and header:
            logger.warning(
                "%s has no column %r: its first column is read, and its first line, %r, is taken for the names",
                name,
                fields[0],
                header[0][:80],
            )
        columns = {fields[0]: columns.get(fields[0], 0), **columns}
        for row in rows:
            number = rows.line_num + skipped
            if not row:
                continue
            if len(row) <= max(columns.values()):
                raise InputError(f"{name}, line {number}: the row has {len(row)} columns, too few")
            yield number, _item({field: row[column] for field, column in columns.items()})
    except csv.Error as error:
        raise InputError(f"{name}, line {rows.line_num + skipped}: {error}") from error


def _chained(first: str, others: Iterator[str]) -> Iterator[str]:
    yield first
    yield from others


def _delimiter(header: str, fields: Sequence[str]) -> str:
    """What separates the names in a header line: what makes the first field one of them, else a comma."""
    for delimiter in _DELIMITERS:
        if fields[0] in next(csv.reader([header], delimiter=delimiter), []):
            return delimiter
    return ","


def _read_jsonl(lines: Iterable[str], name: str, fields: Sequence[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
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
    kind = kind_of(path, "write")
    part = path.with_name(f"{path.name}.part")
    try:
        file = part.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"cannot write {part}: {error.strerror}") from error
    with file:
        yield _writer(file, kind, fields)
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
        if extra := row.keys() - set(header):
            raise InputError(
                f"a row has {', '.join(sorted(extra))}, which the first row has not, and a table has one form; "
                "write a .jsonl file"
            )
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
