"""`untorch run`: answers for texts on the command line, from stdin, or from a file."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from untorch.batching import windows
from untorch.cli import run_folder, texts
from untorch.cli.arguments import add_model_arguments, split_bundle
from untorch.errors import InputError
from untorch.pipelines import pipeline
from untorch.pipelines.base import Pipeline

HELP = "answer texts with a bundle, or with the installed default model"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[BUNDLE] TEXT",
        help="a bundle (folder, installed model or Hub id)"
        " and texts; without a bundle the installed default answers; without texts stdin is read",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--truncation", action="store_true", help="cut texts over the model's limit (default: an error)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help='an argument of the task, its value as JSON or as it stands: top_k=3, candidate_labels="sport, politics"',
    )
    parser.add_argument("--input", type=Path, metavar="F", help="read texts from a txt, csv or jsonl file, or a folder")
    parser.add_argument(
        "--encoding", metavar="E", help="of the texts that are read (default: what a byte order mark says, else UTF-8)"
    )
    parser.add_argument("--output", type=Path, metavar="F", help="write answers to a txt, csv or jsonl file")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of a run on the CPU (default: the cores that may be used)"
    )
    run_folder.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Answer everything; 0, or an error."""
    start = time.perf_counter()
    name, given = split_bundle(args.words)
    if given and args.input:
        raise InputError("give texts on the command line or --input, not both")
    arguments = dict(map(_argument, args.set)) | ({"truncation": True} if args.truncation else {})
    if run_folder.wanted(args):
        return run_folder.run(args, name, arguments)
    task = args.task or (None if name else "sentiment-analysis")
    if args.threads is not None and args.threads < 1:
        raise InputError(f"--threads is {args.threads}; it is a number from 1")
    kind = texts.kind_of(args.input) if args.input else ".txt"
    answerer = pipeline(
        task, name, device=args.device, precision=args.precision, revision=args.revision, threads=args.threads
    )
    loaded = time.perf_counter()
    fields = answerer.input_fields
    count = 0
    _write_any_text(sys.stdout)
    if len(given) == 1 and not args.json and not args.output and sys.stdout.isatty() and hasattr(answerer, "stream"):
        # Somebody is reading along.
        for piece in answerer.stream(given[0], **arguments):
            print(piece, end="", flush=True)
        print()
        return 0
    with ExitStack() as stack:
        write = stack.enter_context(texts.writing(args.output, fields)) if args.output else None
        items = answerer.from_words(given) if given else []
        source = stack.enter_context(_Source(items, args.input, kind, fields, args.encoding))
        rows = _answered(answerer, source, arguments)
        for item, answer in rows:
            count += 1
            row = texts.flat(item, answer, fields)
            if write is not None:
                write(row)
            else:
                print(json.dumps(row, ensure_ascii=False) if args.json else texts.line(row, fields))
    done = time.perf_counter()
    print(
        f"{count} text{'s' * (count != 1)} on {answerer.device} in {answerer.precision}: "
        f"loaded in {1e3 * (loaded - start):.0f} ms, answered in {1e3 * (done - loaded):.1f} ms",
        file=sys.stderr,
    )
    return 0


def _argument(setting: str) -> tuple[str, Any]:
    """The name and value of a `--set`."""
    name, given, value = setting.partition("=")
    if not given:
        raise InputError(f"--set takes NAME=VALUE; got {setting!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _write_any_text(stream: Any) -> None:
    """Let a stream take every text: UTF-8 for a file or a program, whatever the locale; escapes on a terminal."""
    if isinstance(stream, io.TextIOWrapper):
        if stream.isatty():
            stream.reconfigure(errors="backslashreplace")
        else:
            stream.reconfigure(encoding="utf-8")


class _Source:
    """The inputs, wherever they come from, with a progress bar over a file's bytes."""

    def __init__(
        self, given: list[Any], path: Path | None, kind: str, fields: Sequence[str], encoding: str | None
    ) -> None:
        self.name = "stdin" if path is None else str(path)
        self._given = given
        self._path = path
        self._kind = kind
        self._fields = fields
        self._encoding = encoding
        self._file: IO[str] | None = None
        self._bar: Any = None

    def __enter__(self) -> _Source:
        if self._path is not None:
            from tqdm import tqdm

            self._file = texts.opened(self._path, self._encoding)
            # disable=None shows the bar only where stderr is a terminal.
            self._bar = tqdm(total=self._path.stat().st_size, unit="B", unit_scale=True, disable=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._bar.close()

    def windows(self, most: int) -> Iterator[list[tuple[int, Any]]]:
        """The inputs with their line numbers, as many at a time as there are, at most `most`."""
        if self._given:
            return windows(enumerate(self._given, 1), most)
        if self._path is not None and self._path.is_file():
            return windows(self._read(), most)
        # A pipe may be slow, and its writer wait for an answer.
        from untorch.pipelines.streams import arrived

        return arrived(self._read(), most)

    def _read(self) -> Iterator[tuple[int, Any]]:
        lines: Iterable[str] | None = self._file
        if lines is None:
            lines = texts.opened(None, self._encoding) if isinstance(sys.stdin, io.TextIOWrapper) else sys.stdin
        yield from texts.read(lines, self._kind, self.name, self._fields)

    def advance(self) -> None:
        if self._bar is not None and self._file is not None:
            self._bar.update(self._file.buffer.tell() - self._bar.n)  # type: ignore[attr-defined]


def _answered(answerer: Pipeline[Any], source: _Source, arguments: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for window in source.windows(answerer.stream_window):
        items = [item for _, item in window]
        try:
            answers = answerer.each(items, **arguments) if items else []
        except InputError:
            _name_the_line(answerer, window, source.name, arguments)
            raise
        yield from zip(items, answers, strict=True)
        sys.stdout.flush()  # whoever reads the answers may wait for them
        source.advance()


def _name_the_line(
    answerer: Pipeline[Any], window: list[tuple[int, Any]], name: str, arguments: dict[str, Any]
) -> None:
    """Raise the error again with the line it comes from: the first that fails by itself."""
    for number, item in window:
        try:
            answerer.each([item], **arguments)
        except InputError as error:
            raise type(error)(f"{name}, line {number}: {error}") from error
