"""`untorch run`: answers for texts on the command line, from stdin, or from a file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from untorch.batching import windows
from untorch.cli import run_folder, texts
from untorch.cli.arguments import add_model_arguments, split_bundle
from untorch.errors import InputError
from untorch.pipelines import pipeline
from untorch.pipelines.base import STREAM_WINDOW, Pipeline

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
    parser.add_argument("--output", type=Path, metavar="F", help="write answers to a txt, csv or jsonl file")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
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
    answerer = pipeline(task, name, device=args.device, precision=args.precision, revision=args.revision)
    loaded = time.perf_counter()
    fields = answerer.input_fields
    count = 0
    if len(given) == 1 and not args.json and not args.output and sys.stdout.isatty() and hasattr(answerer, "stream"):
        # Somebody is reading along.
        for piece in answerer.stream(given[0], **arguments):
            print(piece, end="", flush=True)
        print()
        return 0
    with ExitStack() as stack:
        write = stack.enter_context(texts.writing(args.output, fields)) if args.output else None
        items = answerer.from_words(given) if given else []
        rows = _answered(answerer, stack.enter_context(_Source(items, args.input, fields)), arguments)
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


class _Source:
    """The inputs, wherever they come from, with a progress bar over a file's bytes."""

    def __init__(self, given: list[Any], path: Path | None, fields: Sequence[str]) -> None:
        self._fields = fields
        self.name = "stdin" if path is None else str(path)
        self._given = given
        self._path = path
        self._file: IO[str] | None = None
        self._bar: Any = None

    def __enter__(self) -> _Source:
        if self._path is not None:
            from tqdm import tqdm

            try:
                self._file = self._path.open(encoding="utf-8", newline="" if self._path.suffix == ".csv" else None)
            except OSError as error:
                raise InputError(f"cannot read {self._path}: {error.strerror}") from error
            # disable=None shows the bar only where stderr is a terminal.
            self._bar = tqdm(total=self._path.stat().st_size, unit="B", unit_scale=True, disable=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._bar.close()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if self._given:
            return enumerate(self._given, 1)
        if self._file is None or self._path is None:
            return texts.read(sys.stdin, ".txt", self.name, self._fields)
        return texts.read(self._file, self._path.suffix, self.name, self._fields)

    def advance(self) -> None:
        if self._bar is not None and self._file is not None:
            self._bar.update(self._file.buffer.tell() - self._bar.n)  # type: ignore[attr-defined]


def _answered(answerer: Pipeline, source: _Source, arguments: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for window in windows(source, STREAM_WINDOW):
        items = [item for _, item in window]
        try:
            # As a stream: some tasks answer a list of one as transformers does, without the list.
            answers = list(answerer((item for item in items), **arguments))
        except InputError:
            _name_the_line(answerer, window, source.name, arguments)
            raise
        yield from zip(items, answers, strict=True)
        source.advance()


def _name_the_line(answerer: Pipeline, window: list[tuple[int, Any]], name: str, arguments: dict[str, Any]) -> None:
    """Raise the error again with the line it comes from: the first that fails by itself."""
    for number, item in window:
        try:
            answerer([item], **arguments)
        except InputError as error:
            raise type(error)(f"{name}, line {number}: {error}") from error
