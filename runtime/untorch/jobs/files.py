"""Parquet, JSONL and CSV files as streams of record batches, in and out, in memory that does not grow with them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from pyarrow import csv, parquet
from pyarrow import json as arrow_json

from untorch.errors import InputError
from untorch.jobs.arrow import is_list, pa

FORMATS = (".parquet", ".jsonl", ".csv")

# Rows that are answered together.
WINDOW = 1024

# Bytes that are parsed at once.
_BLOCK = 8 << 20

# The same for CSV, where Arrow reads some thirty blocks ahead. A row may not be longer.
_CSV_BLOCK = 2 << 20

# Bytes of rows that become one row group of a Parquet file.
_ROW_GROUP = 32 << 20

# Rows are answered by the window; fewer at once where they are so large that a window would be more bytes than this.
_BATCH_BYTES = 16 << 20


class Source(NamedTuple):
    """A file being read: the schema of its batches, and (batch, bytes of the file read until then)."""

    schema: pa.Schema
    batches: Iterator[tuple[pa.RecordBatch, int]]


def first_schema(path: Path) -> pa.Schema:
    """The schema of a file as its beginning tells it; without columns for an empty file. Raises as `opened` does."""
    with _errors(path):
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                return next((_parsed(path, block, 1, None).schema for block, _ in _blocks(file)), pa.schema([]))
        with _OPENERS[path.suffix](path) as source:
            return source.schema


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a file for reading. Raises InputError, naming the file, for one that cannot be read or is malformed."""
    with ExitStack() as stack:
        with _errors(path):
            source = stack.enter_context(_OPENERS[path.suffix](path))
        yield source._replace(batches=_naming(path, source.batches))


def _naming(path: Path, batches: Iterator[tuple[pa.RecordBatch, int]]) -> Iterator[tuple[pa.RecordBatch, int]]:
    with _errors(path):
        yield from batches


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error


@contextmanager
def _parquet(path: Path) -> Iterator[Source]:
    # Buffered: a column of a row group is otherwise read whole, and a file may be one row group.
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        size, rows = path.stat().st_size, file.metadata.num_rows
        held = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
        count = max(1, min(WINDOW, _BATCH_BYTES * rows // held if held else WINDOW))

        def batches() -> Iterator[tuple[pa.RecordBatch, int]]:
            done = 0
            for batch in file.iter_batches(count, use_threads=False):
                done += batch.num_rows
                yield batch, size * done // rows

        yield Source(file.schema_arrow, batches())


@contextmanager
def _csv(path: Path) -> Iterator[Source]:
    if not path.stat().st_size:
        yield Source(pa.schema([]), iter(()))
        return
    reading = csv.ReadOptions(block_size=_CSV_BLOCK, use_threads=False)
    parsing = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, reading, parsing) as peek:
        names = peek.schema.names
    # Every column as the text it is: "007" is not 7.
    texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    with path.open("rb") as file, csv.open_csv(file, reading, parsing, texts) as reader:
        yield Source(reader.schema, ((part, file.tell()) for batch in reader for part in _windows(batch)))


@contextmanager
def _jsonl(path: Path) -> Iterator[Source]:
    # Twice through the file: a column that the first block lacks is a column all the same.
    schema = pa.schema([])
    with path.open("rb") as file:
        for block, line in _blocks(file):
            schema = _unified(path, schema, _parsed(path, block, line, None).schema)

    def batches(file: IO[bytes]) -> Iterator[tuple[pa.RecordBatch, int]]:
        for block, line in _blocks(file):
            for batch in _parsed(path, block, line, schema).to_batches(WINDOW):
                yield batch, file.tell()

    with path.open("rb") as file:
        yield Source(schema, batches(file))


def _blocks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Whole lines, about a block of them at a time, and the number of the first."""
    line = 1
    while block := file.read(_BLOCK):
        block += file.readline()
        if line == 1:
            block = block.removeprefix(b"\xef\xbb\xbf")
        if block.strip():
            yield block, line
        line += block.count(b"\n")


def _parsed(path: Path, block: bytes, line: int, schema: pa.Schema | None) -> pa.Table:
    reading = arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1)
    parsing = arrow_json.ParseOptions(
        explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="infer"
    )
    try:
        table = arrow_json.read_json(pa.BufferReader(block), reading, parsing)
    except pa.ArrowException as error:
        for number, row in enumerate(block.splitlines(), line):
            _check_row(path, number, row)
        raise InputError(f"{path}, from line {line} on: {error}") from error
    # Text that looks like a time stays the text it is.
    texts = table.schema if schema is not None else pa.schema([_untimed(field) for field in table.schema])
    return table if texts.equals(table.schema) else _parsed(path, block, line, texts)


def _check_row(path: Path, number: int, row: bytes) -> None:
    try:
        value = json.loads(row) if row.strip() else {}
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}, line {number}: {type(value).__name__}, not an object with columns")


def _untimed(field: pa.Field) -> pa.Field:
    return field.with_type(_untimed_type(field.type))


def _untimed_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return pa.string()
    if is_list(kind):
        return pa.list_(_untimed_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([_untimed(kind.field(place)) for place in range(kind.num_fields)])
    return kind


def _unified(path: Path, known: pa.Schema, new: pa.Schema) -> pa.Schema:
    try:
        return pa.unify_schemas([known, new], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"{path}: a column has values of two kinds: {error}") from error


def _windows(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, WINDOW):
        yield batch.slice(start, WINDOW)


_OPENERS = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}


@contextmanager
def writing(path: Path, form: str, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """A function that adds a batch to a new file of the format `form`. Raises OSError where it cannot be written."""
    with path.open("wb") as file:
        with _WRITERS[form](file, schema) as write:
            yield write
        file.flush()


@contextmanager
def _parquet_out(file: IO[bytes], schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    waiting: list[pa.RecordBatch] = []
    with parquet.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_batches(waiting, schema))
            waiting.clear()

        def write(batch: pa.RecordBatch) -> None:
            waiting.append(batch)
            if sum(each.nbytes for each in waiting) >= _ROW_GROUP:
                flush()

        yield write
        if waiting:
            flush()


def _as_json(value: Any) -> str:
    """JSON in one line; bytes in base 64, times and decimals as they are written."""

    def plain(other: Any) -> str:
        return base64.b64encode(other).decode() if isinstance(other, bytes) else str(other)

    return json.dumps(value, ensure_ascii=False, default=plain)


@contextmanager
def _jsonl_out(file: IO[bytes], _schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    def write(batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            file.write(_as_json(row).encode() + b"\n")

    yield write


@contextmanager
def _csv_out(file: IO[bytes], schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    def cells(column: pa.Array) -> pa.Array:
        if not pa.types.is_nested(column.type):
            return column
        return pa.array([None if value is None else _as_json(value) for value in column.to_pylist()], pa.string())

    flat = pa.schema([field.with_type(pa.string()) if pa.types.is_nested(field.type) else field for field in schema])
    with csv.CSVWriter(file, flat) as writer:
        yield lambda batch: writer.write_batch(pa.RecordBatch.from_arrays(list(map(cells, batch.columns)), schema=flat))


_WRITERS = {".parquet": _parquet_out, ".jsonl": _jsonl_out, ".csv": _csv_out}
