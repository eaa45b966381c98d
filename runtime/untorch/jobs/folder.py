"""Whole folders of files, answered file by file: what is done stays done, whoever is killed when."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from untorch.background import BackgroundTask
from untorch.bundle.folder import digest
from untorch.errors import InputError, UntorchError
from untorch.jobs import bundles, files, marks
from untorch.jobs.arrow import pa
from untorch.jobs.worker import RowError, Worker
from untorch.version import __version__

Item = TypeVar("Item")

# Called with what was done since the last call: rows, tokens, and bytes of the input.
Report = Callable[[int, int, int], None]


class _Piece(NamedTuple):
    """One file of the input, and the name of its output file."""

    source: Path
    name: str


class FolderJob:
    """The files of a folder, or of a glob pattern, to be answered into another folder, each by one output file.

    `inputs` is a folder, whose Parquet, JSONL and CSV files are taken however deep they lie, or a pattern with `**`
    for any depth. Names that begin with `.` or `_` are passed over. An output file has its input's place and format,
    or `form` (`.parquet`, `.jsonl`, `.csv`); it appears whole, by rename, and then a mark that says what it was made
    of. `shard` (i, n) takes every n-th file from the i-th on, counted from 1 in the order of their names.

    Several processes, also with the same shard, may work on one folder: a file that another has in hand is left to it,
    and looked at again at the end. With `resume` files that are done are passed over, and answered again where the
    input has changed since; `changed` names them.

    Making a job checks everything that can be checked before anything starts. Raises InputError for no input, a column
    that is missing or not text, a file that cannot be read, an output folder that cannot be written or holds another
    job's answers, or, without `resume`, this job's.
    """

    def __init__(
        self,
        worker: Worker,
        inputs: str | Path,
        output: str | Path,
        *,
        shard: tuple[int, int] = (1, 1),
        resume: bool = False,
        form: str | None = None,
    ) -> None:
        index, count = shard
        if not 1 <= index <= count:
            raise InputError(f"shard {index}/{count} is none; they are counted from 1/{count} to {count}/{count}")
        if form is not None and form not in files.FORMATS:
            raise InputError(f"cannot write {form!r}; choose {', '.join(files.FORMATS)}")
        self._worker = worker
        pieces = _pieces(str(inputs), Path(output), form)[index - 1 :: count]
        answerer = worker.load()
        self._bundle = bundles.identity(answerer.model.bundle)
        schemas = {piece: _first_schema(piece, worker) for piece in pieces}
        self._output = marks.OutputFolder(
            Path(output),
            {
                "task": answerer.task,
                "bundle": self._bundle,
                "precision": answerer.precision,
                "column": worker.column,
                "arguments": worker.arguments,
                "vectors": worker.vectors,
                "prefix": worker.prefix,
                "on_error": worker.on_error,
                "format": form,
            },
        )
        self._todo: list[_Piece] = []
        self.changed: list[str] = []
        for piece in schemas:
            mark = self._output.mark(piece.name)
            if mark is None:
                self._todo.append(piece)
            elif not resume:
                raise InputError(
                    f"{output} holds this job's {piece.name} already; to go on, resume (--resume on the command line)"
                )
            elif not marks.unchanged(piece.source, mark):
                self.changed.append(str(piece.source))
                self._todo.append(piece)
        self._files = len(pieces)

    @property
    def size(self) -> int:
        """How many bytes of input there are to do."""
        return sum(piece.source.stat().st_size for piece in self._todo)

    def run(self, report: Report = lambda rows, tokens, size: None) -> dict[str, Any]:
        """Answer what is not done yet, and say how it went.

        Gives `files` (all of this shard's), `files_done` (by this process), `rows`, `errors` (rows that could not be
        answered), `tokens`, `seconds`, `rows_per_second`, `tokens_per_second` and `changed`. Raises InputError for a
        file that cannot be read after all, or with `on_error="raise"` the first row that cannot be answered, and
        UntorchError where the output cannot be written. What is done stays done.
        """
        start = time.perf_counter()
        totals = {"files_done": 0, "rows": 0, "errors": 0, "tokens": 0}
        elsewhere = [piece for piece in self._todo if not self._done(piece, totals, report, wait=False)]
        for piece in elsewhere:
            self._done(piece, totals, report, wait=True)
        seconds = time.perf_counter() - start
        return {
            "files": self._files,
            **totals,
            "seconds": round(seconds, 3),
            "rows_per_second": round(totals["rows"] / seconds, 1),
            "tokens_per_second": round(totals["tokens"] / seconds, 1),
            "changed": self.changed,
        }

    def _done(self, piece: _Piece, totals: dict[str, int], report: Report, *, wait: bool) -> bool:
        """Answer one file, unless it is done by now; False if another process has it in hand."""
        try:
            with self._output.at_work(piece.name, wait=wait) as mine:
                if mine:
                    mark = self._output.mark(piece.name)
                    if mark is None or not marks.unchanged(piece.source, mark):
                        facts = self._answer(piece, report)
                        for name in ("rows", "errors", "tokens"):
                            totals[name] += facts[name]
                        totals["files_done"] += 1
                return mine
        except OSError as error:
            raise UntorchError(
                f"cannot write {self._output.path / piece.name}: {error.strerror or error}. "
                "What is done stays done; to go on, resume"
            ) from error

    def _answer(self, piece: _Piece, report: Report) -> dict[str, Any]:
        """Answer one file and mark it."""
        before = marks.identity(piece.source)
        hashed = BackgroundTask(lambda: digest(piece.source))
        hashed.begin()
        facts = {"rows": 0, "errors": 0, "tokens": 0}
        position = 0
        with files.opened(piece.source) as source, self._output.new(piece.name) as part:
            schema = self._worker.schema(_with_columns(source.schema, self._worker))
            schema = schema.with_metadata({**(schema.metadata or {}), b"untorch": self._note()})
            # Reading and writing go on beside the model, one batch ahead of it and one behind.
            with (
                files.writing(part, Path(piece.name).suffix, schema) as write,
                _ahead(self._counted(source.batches)) as batches,
                _behind(write) as write_behind,
            ):
                for batch, tokens, done in batches:
                    try:
                        answered = self._worker(batch)
                    except RowError as error:
                        row = facts["rows"] + error.row + 1
                        raise InputError(f"{piece.source}, row {row}: {error.reason}") from error
                    write_behind(answered)
                    if self._worker.on_error == "column":
                        facts["errors"] += answered.num_rows - answered.columns[-1].null_count
                    facts["rows"] += batch.num_rows
                    facts["tokens"] += tokens
                    report(batch.num_rows, tokens, done - position)
                    position = done
            if marks.identity(piece.source) != before:
                raise InputError(f"{piece.source} changed while it was read; resume when it is whole")
        report(0, 0, before[2] - position)
        self._output.done(
            piece.name,
            {
                "source": str(piece.source),
                "input": hashed.result(),
                "identity": before,
                "bundle": self._bundle,
                **facts,
            },
        )
        return facts

    def _counted(self, batches: Iterable[tuple[pa.RecordBatch, int]]) -> Iterator[tuple[pa.RecordBatch, int, int]]:
        for batch, done in batches:
            yield batch, self._worker.count_tokens(batch), done

    def _note(self) -> bytes:
        return f"untorch {__version__}, bundle {self._bundle}, precision {self._worker.load().precision}".encode()


@contextmanager
def _ahead(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """The items, each made in a thread while the one before it is in use."""
    end = object()

    def following() -> Iterator[Any]:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item

    with ThreadPoolExecutor(1, "untorch-read") as pool:
        yield following()


@contextmanager
def _behind(do: Callable[[Item], None]) -> Iterator[Callable[[Item], None]]:
    """`do`, in a thread, and at most one item behind; what it raises is raised at the next item or at the end."""
    last: Future[None] | None = None

    def doing(item: Item) -> None:
        nonlocal last
        if last is not None:
            last.result()
        last = pool.submit(do, item)

    with ThreadPoolExecutor(1, "untorch-write") as pool:
        yield doing
        if last is not None:
            last.result()


def _pieces(inputs: str, output: Path, form: str | None) -> list[_Piece]:
    """The files of a folder or pattern, in the order of their names. Raises InputError where there are none."""
    root = Path(inputs)
    if root.is_dir():
        found: Iterable[Path] = root.rglob("*")
    elif root.is_file():
        root, found = root.parent, [root]
    else:
        # A pattern's files keep their places below the last folder that has no wildcard in it.
        fixed = Path(inputs).parts
        wild = next((place for place, part in enumerate(fixed) if glob.has_magic(part)), len(fixed))
        root = Path(*fixed[:wild])
        found = map(Path, glob.glob(inputs, recursive=True))  # noqa: PTH207
    pieces: dict[str, _Piece] = {}
    for path in sorted(found):
        place = path.relative_to(root)
        hidden = any(part.startswith((".", "_")) for part in place.parts)
        if path.suffix not in files.FORMATS or hidden or not path.is_file() or path.is_relative_to(output):
            continue
        name = (place if form is None else place.with_suffix(form)).as_posix()
        if name in pieces:
            raise InputError(f"{pieces[name].source} and {path} would both be answered into {name}")
        pieces[name] = _Piece(path, name)
    if not pieces:
        raise InputError(f"there is no file of {', '.join(files.FORMATS)} in {inputs}")
    return list(pieces.values())


def _first_schema(piece: _Piece, worker: Worker) -> pa.Schema:
    try:
        return worker.schema(_with_columns(files.first_schema(piece.source), worker))
    except InputError as error:
        if str(piece.source) in str(error):
            raise
        raise InputError(f"{piece.source}: {error}") from error


def _with_columns(schema: pa.Schema, worker: Worker) -> pa.Schema:
    """The schema, or for a file without a byte in it one with the columns that are asked for."""
    if len(schema):
        return schema
    column = worker.column or worker.load().input_fields[0]
    return pa.schema([(name, pa.string()) for name in ([column] if isinstance(column, str) else column.values())])
