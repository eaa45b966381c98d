"""A worker that any engine can run: Arrow record batches in, the same rows with their answers out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from untorch.batching import windows
from untorch.errors import InputError
from untorch.jobs import bundles
from untorch.jobs.arrow import is_list, is_text, pa
from untorch.jobs.columns import VECTORS, Columns, Vectors, columns_for
from untorch.jobs.files import WINDOW
from untorch.pipelines import pipeline
from untorch.pipelines.base import Pipeline

OnError = Literal["column", "raise"]

ERROR = "error"

# Fields whose values are lists of texts, or one text with commas.
_LISTS = {"passages", "choices", "candidate_labels"}


class RowError(InputError):
    """A row that cannot be answered where that is not to be noted in a column: its place in the batch, and why."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row} of the batch: {reason}")
        self.row = row
        self.reason = reason


class _Loaded(NamedTuple):
    answerer: Pipeline[Any]
    columns: Columns


# What each process has loaded, by process and configuration: sessions do not survive a fork, and a forked child loads
# its own. Its parent's stay where they are, because ending a session waits for threads that did not come along.
_loaded: dict[tuple[int, str], _Loaded] = {}
_lock = threading.Lock()


def _unlock() -> None:
    global _lock  # noqa: PLW0603  # a child needs one that nobody holds
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)


class Worker:
    """Answers record batches with a bundle. It is sent between processes as its configuration, never as a session.

    Call it with a `pyarrow.RecordBatch`, or a `pyarrow.Table`; it gives one with the same rows in the same order, all
    their columns, the answers as typed columns, and `error`: the reason where a row could not be answered, else null.
    The model is loaded by the first call in a process, and once for all workers of the same configuration there. It is
    safe to call from several threads.

    `bundle` is what `pipeline` takes, or the URL of a folder that pyarrow can read (`s3://…`, `gs://…`, `file:///…`),
    fetched once a machine and held to its manifest. `column` names the column with the texts; for a task with several
    inputs it maps the task's names to columns, `{"question": "q", "context": "body"}`. By default columns have the
    task's own names (`text`; `question` and `context`; …).

    `threads` defaults to OMP_NUM_THREADS, which Ray, Spark and Dask set to the cores that they granted, else to every
    core this process may use. `on_error="raise"` raises for the first row that cannot be answered, and there is no
    column `error`. `prefix` is put before the names of the new columns. `vectors` is the form of embeddings: `float32`;
    `int8`, each vector times 127 / its largest absolute value, which keeps cosines; or `bits`, the signs, eight a byte.
    Further arguments are the pipeline's. Raises InputError for arguments of the wrong kind; what the bundle or the
    task refuses is raised by the first call.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        task: str | None = None,
        column: str | Mapping[str, str] | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        revision: str | None = None,
        threads: int | None = None,
        on_error: OnError = "column",
        prefix: str = "",
        vectors: Vectors = "float32",
        **arguments: Any,
    ) -> None:
        if on_error not in ("column", "raise"):
            raise InputError(f'on_error is {on_error!r}; it is "column" or "raise"')
        if vectors not in VECTORS:
            raise InputError(f"vectors is {vectors!r}; choose {', '.join(VECTORS)}")
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads!r}; it is a number from 1")
        self.bundle = None if bundle is None else os.fspath(bundle)
        if self.bundle is not None and Path(self.bundle).is_dir():
            self.bundle = str(Path(self.bundle).resolve())  # another process may have another working folder
        self.task = task
        self.column = column if column is None or isinstance(column, str) else dict(column)
        self.device = device
        self.precision = precision
        self.revision = revision
        self.threads = threads
        self.on_error = on_error
        self.prefix = prefix
        self.vectors = vectors
        self.arguments = arguments

    def __repr__(self) -> str:
        return f"Worker({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __call__(self, batch: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
        """Answer the rows of a batch or table.

        Raises InputError for a column that is missing, not text, or would be there twice; with `on_error="raise"`
        RowError, which is one, for the first row that cannot be answered.
        """
        schema = self.schema(batch.schema)
        if isinstance(batch, pa.Table):
            return pa.Table.from_batches(map(self, batch.combine_chunks().to_batches()), schema)
        loaded = self._load()
        items = self._items(batch, loaded.answerer)
        answers, errors = _answered(loaded.answerer.each, items)
        if self.on_error == "raise":
            bad = next((row for row, error in enumerate(errors) if error is not None), None)
            if bad is not None:
                raise RowError(bad, str(errors[bad]))
        new = loaded.columns.arrays(answers)
        if self.on_error == "column":
            new.append(pa.array(errors, pa.string()))
        return pa.RecordBatch.from_arrays([*batch.columns, *new], schema=schema)

    def load(self) -> Pipeline[Any]:
        """The pipeline that answers in this process, loaded if it is not yet."""
        return self._load().answerer

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The schema of the batches that batches of the `given` schema become. Raises InputError as a call does."""
        loaded = self._load()
        self._inputs(given, loaded.answerer)
        fields = [field.with_name(self.prefix + field.name) for field in loaded.columns.fields]
        if self.on_error == "column":
            fields.append(pa.field(self.prefix + ERROR, pa.string()))
        if taken := [field.name for field in fields if field.name in given.names]:
            raise InputError(
                f"there is a column {', '.join(map(repr, taken))} already, where the answers would go; "
                f"give them other names with a prefix"
            )
        return pa.schema([*given, *fields], metadata=given.metadata)

    def count_tokens(self, batch: pa.RecordBatch) -> int:
        """How many tokens the texts of a batch have, rows without one left out."""
        answerer = self.load()
        items = [item for item in self._items(batch, answerer) if item is not None]
        if all(isinstance(item, str) for item in items):
            return sum(map(len, answerer.tokenizer.encode_ids(items)))
        return sum(answerer.count_tokens(item) for item in items if isinstance(item, (str, dict)))

    def _load(self) -> _Loaded:
        key = (os.getpid(), repr(self))
        with _lock:
            if key not in _loaded:
                _loaded[key] = self._open()
            return _loaded[key]

    def _open(self) -> _Loaded:
        granted = os.environ.get("OMP_NUM_THREADS", "")
        threads = self.threads or (int(granted) if granted.isdecimal() and int(granted) else None)
        if threads is not None:
            # The tokenizer's pool would otherwise take every core of the machine.
            os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        task, name = self.task, self.bundle
        if name is None:
            task = task or "sentiment-analysis"
        answerer = pipeline(
            task,
            None if name is None else bundles.fetched(name),
            device=self.device,
            precision=self.precision,
            revision=self.revision,
            threads=threads,
            **self.arguments,
        )
        return _Loaded(answerer, columns_for(answerer, self.arguments, self.vectors))

    def _inputs(self, schema: pa.Schema, answerer: Pipeline[Any]) -> dict[str, str]:
        """The task's fields, and the columns that they are read from. Raises InputError for one that will not do."""
        fields = answerer.input_fields
        if isinstance(self.column, str):
            columns = {fields[0]: self.column}
        elif self.column is None:
            columns = {field: field for field in fields if field == fields[0] or field in schema.names}
        else:
            columns = self.column
            if fields[0] not in columns or not columns.keys() <= set(fields):
                raise InputError(f"column names {', '.join(columns)}; {answerer.task} takes {', '.join(fields)}")
        for field, column in columns.items():
            if schema.names.count(column) != 1:
                wrong = "no column" if column not in schema.names else "more than one column"
                raise InputError(f"there is {wrong} {column!r}; there is {', '.join(schema.names) or 'none at all'}")
            kind = schema.field(column).type
            of_lists = field in _LISTS or bool(self.arguments.get("is_split_into_words"))
            if not (is_text(kind) or (of_lists and is_list(kind) and is_text(kind.value_type))):
                raise InputError(f"the column {column!r} is {kind}, not {'lists of texts' if of_lists else 'text'}")
        return columns

    def _items(self, batch: pa.RecordBatch, answerer: Pipeline[Any]) -> list[Any]:
        """One input a row, as the pipeline takes it; None where the first field is null."""
        first, *others = self._inputs(batch.schema, answerer).items()
        items: list[Any] = batch.column(first[1]).to_pylist()
        for field, column in others:
            for row, value in enumerate(batch.column(column).to_pylist()):
                if value is None or items[row] is None:
                    continue
                if not isinstance(items[row], dict):
                    items[row] = {first[0]: items[row]}
                items[row][field] = value
        return items


def _answered(answer: Callable[[list[Any]], list[Any]], items: Sequence[Any]) -> tuple[list[Any], list[str | None]]:
    """An answer for each item, or the reason why there is none.

    A window that is refused is halved until the row at fault stands alone. Texts are refused before any is run, so
    that the model still sees each text once.
    """
    answers: list[Any] = [None] * len(items)
    errors: list[str | None] = [None if item is not None else "the text is null" for item in items]

    def attempt(rows: list[int]) -> None:
        try:
            given = answer([items[row] for row in rows])
        except InputError as error:
            if len(rows) == 1:
                errors[rows[0]] = str(error)
                return
            attempt(rows[: len(rows) // 2])
            attempt(rows[len(rows) // 2 :])
            return
        for row, one in zip(rows, given, strict=True):
            answers[row] = one

    # Inputs of one kind together: some tasks refuse a mixture, pairs and single texts for one.
    rows = sorted((row for row, item in enumerate(items) if item is not None), key=lambda row: _kind(items[row]))
    for _, alike in groupby(rows, key=lambda row: _kind(items[row])):
        for window in windows(alike, WINDOW):
            attempt(window)
    return answers, errors


def _kind(item: Any) -> str:
    return ",".join(item) if isinstance(item, dict) else type(item).__name__
