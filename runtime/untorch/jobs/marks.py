"""What a job's output folder knows: whose answers it holds, which files are done, and who is at work on which.

`OUT/_untorch/` holds `job.json`, and for every output file a mark when it is done, a lock while somebody writes it, and
its part until it is whole. Engines that read folders pass over names that begin with `_`.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from untorch.bundle.folder import digest
from untorch.errors import InputError

STATE = "_untorch"


class OutputFolder:
    """The folder that a job's answers go to.

    `job` is what makes it the same job: bundle, task, arguments. Raises InputError for a folder that holds another
    job's answers or anything else, or that cannot be written.
    """

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path = path
        self._state = path / STATE
        job = json.loads(json.dumps(job, default=repr))
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not self._state.is_dir() and any(path.iterdir()):
                raise InputError(f"{path} holds files that are no job's; choose an empty folder or a new one")
            self._state.mkdir(exist_ok=True)
            with self._held(self._state / "job.lock"):
                known = read(self._state / "job.json")
                if known is None:
                    _write(self._state / "job.json", job)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        known = job if known is None else known
        for name, value in job.items():
            if (before := known.get(name)) != value:
                raise InputError(
                    f"{path} holds the answers of another job: {name} was {before!r} and is {value!r} now. "
                    "Choose another folder, or remove this one"
                )

    def mark(self, name: str) -> dict[str, Any] | None:
        """What was noted when the output file `name` was done; None where it is not, or no longer as it was."""
        mark = read(self._state / "marks" / f"{name}.json")
        if mark is None:
            return None
        try:
            return mark if (self.path / name).stat().st_size == mark["output"] else None
        except FileNotFoundError:
            return None

    @contextmanager
    def at_work(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Whether nobody else is at work on the output file `name`, and for the block nobody else can be.

        With `wait` the other's end is waited for. The lock goes with its process, however that ends.
        """
        path = self._state / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._held(path, wait=wait) as mine:
            if mine:
                for part in (self._state / "parts").glob(f"{glob.escape(name)}.*"):
                    part.unlink(missing_ok=True)  # its process was killed
            yield mine

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """A path to write to, that becomes the output file `name` when the block ends well and else is removed."""
        target = self.path / name
        part = self._state / "parts" / f"{name}.{os.getpid()}-{os.urandom(4).hex()}"
        for folder in (part.parent, target.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def done(self, name: str, facts: dict[str, Any]) -> None:
        """Note that the output file `name` is there, and what it was made of."""
        _write(self._state / "marks" / f"{name}.json", {**facts, "output": (self.path / name).stat().st_size})

    @contextmanager
    def _held(self, path: Path, *, wait: bool = True) -> Iterator[bool]:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


def identity(path: Path) -> list[int]:
    """What tells a file from one that was put in its place or written over: device, inode, size and times."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def unchanged(path: Path, mark: dict[str, Any]) -> bool:
    """Whether an input file is still the one of the mark. It is read only where its size, inode or times differ."""
    return bool(identity(path) == mark["identity"] or digest(path) == mark["input"])


def read(path: Path) -> dict[str, Any] | None:
    """A JSON file's object; None where there is none, or none that can be read."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _write(path: Path, value: dict[str, Any]) -> None:
    """Write a small file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
