"""`untorch run` over folders of files, and Parquet: for one machine, or a share of the files for one of many."""

from __future__ import annotations

import argparse
import glob
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from untorch.errors import InputError

if TYPE_CHECKING:
    from untorch.jobs.folder import Report


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that only folders have."""
    group = parser.add_argument_group("folders (--input DIR, a pattern, or Parquet; --output DIR; needs untorch[jobs])")
    group.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="[FIELD=]NAME",
        help="the column with the texts, or question=NAME and context=NAME (default: the task's own names)",
    )
    group.add_argument("--shards", default="1/1", metavar="I/N", help="take every N-th file from the I-th on")
    group.add_argument("--resume", action="store_true", help="do what is missing or has changed in the output")
    group.add_argument(
        "--on-error",
        default="column",
        choices=("column", "raise"),
        help="a row that cannot be answered: its reason in a column, or the end (default: column)",
    )
    group.add_argument("--format", choices=("parquet", "jsonl", "csv"), help="of the output (default: the input's)")
    group.add_argument("--prefix", default="", metavar="P", help="put before the names of the new columns")
    group.add_argument(
        "--vectors", default="float32", choices=("float32", "int8", "bits"), help="the form of embeddings"
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether the call is about a folder, a pattern, or a file that only folders' ways can read."""
    if args.input is None:
        if args.resume or args.shards != "1/1":
            raise InputError("--resume and --shards go with --input DIR and --output DIR")
        return False
    is_pattern = glob.has_magic(str(args.input)) and not args.input.exists()
    return is_pattern or args.input.is_dir() or args.input.suffix == ".parquet"


def run(args: argparse.Namespace, bundle: str | None, arguments: dict[str, Any]) -> int:
    """Answer every file; 0, or an error."""
    from untorch.jobs.folder import FolderJob
    from untorch.jobs.worker import Worker

    if args.output is None:
        raise InputError(f"--input {args.input} needs --output DIR")
    worker = Worker(
        bundle,
        args.task,
        _columns(args.column),
        device=args.device,
        precision=args.precision,
        revision=args.revision,
        on_error=args.on_error,
        prefix=args.prefix,
        vectors=args.vectors,
        **arguments,
    )
    form = f".{args.format}" if args.format else None
    job = FolderJob(worker, args.input, args.output, shard=_shard(args.shards), resume=args.resume, form=form)
    for path in job.changed:
        print(f"untorch: {path} has changed since it was answered; it is answered again", file=sys.stderr)
    with _bar(job.size) as report:
        summary = job.run(report)
    print(json.dumps(summary))
    return 0


def _columns(given: list[str]) -> str | dict[str, str] | None:
    if not given:
        return None
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    pairs = [one.partition("=") for one in given]
    if not all(name for _, _, name in pairs):
        raise InputError(f"--column takes NAME, or FIELD=NAME for each of several; got {', '.join(given)}")
    return {field: name for field, _, name in pairs}


def _shard(given: str) -> tuple[int, int]:
    index, _, count = given.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise InputError(f"--shards takes I/N, 1/4 for the first of four; got {given!r}")
    return int(index), int(count)


@contextmanager
def _bar(total: int) -> Iterator[Report]:
    from tqdm import tqdm

    # disable=None shows the bar only where stderr is a terminal.
    with tqdm(
        total=total,
        disable=None,
        bar_format="{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}",
    ) as bar:
        start, rows, tokens = time.perf_counter(), 0, 0

        def report(more_rows: int, more_tokens: int, size: int) -> None:
            nonlocal rows, tokens
            rows, tokens = rows + more_rows, tokens + more_tokens
            seconds = time.perf_counter() - start
            bar.set_postfix_str(f"{rows / seconds:,.0f} rows/s, {tokens / seconds:,.0f} tokens/s", refresh=False)
            bar.update(size)

        yield report
