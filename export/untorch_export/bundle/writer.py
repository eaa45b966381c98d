"""Writing a bundle all at once: whatever happens, the target is the old folder or the new one, never a mixture.

The bundle is built in a hidden folder beside the target, and takes its place in one step: a rename where there was
nothing, an exchange of the two folders (Linux's `renameat2`) where there was a bundle. On systems without the
exchange there are two renames; an export killed between them leaves the old bundle under its hidden name, and the
next export to the same place puts it back first.

Each hidden folder is locked by the export that fills it, so that the next one can tell what a killed export left
behind from what another is still writing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from untorch.bundle.folder import digest, read_json
from untorch.bundle.manifest import MANIFEST, FileRecord, Manifest, Variant
from untorch.errors import FormatError
from untorch_export.bundle.assets import write_json
from untorch_export.errors import ExportError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

# A full disk, a quota, a file system that went away or turned read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def check_target(target: Path) -> None:
    """Raise ExportError if a bundle must not be written to `target`: what is there would be lost."""
    while True:
        before = _identity(target)
        try:
            return _check_content(target)
        except (ExportError, FileNotFoundError):
            # Another export may have put its bundle there meanwhile, and be removing the one that was looked at.
            if _identity(target) == before:
                raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Which folder a path leads to now; None if there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _check_content(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ExportError(f"{target} exists and is not a folder")
    present = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    if not present:
        return
    try:
        known = {MANIFEST, *Manifest.from_json(read_json(target / MANIFEST)).files} if MANIFEST in present else None
    except FormatError as error:
        raise ExportError(f"{target} holds a broken bundle ({error}); remove it or choose another folder") from error
    if known is None:
        raise ExportError(f"{target} is not empty and not a bundle; choose another folder")
    if foreign := sorted(present - known):
        raise ExportError(
            f"{target} also holds files that are not the bundle's ({', '.join(foreign[:3])}), which would be lost; "
            "move them or choose another folder"
        )


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `target` when the block ends well, and vanishes when it does not.

    What killed exports left beside the target is swept first. Raises ExportError if the target may not be replaced
    or cannot be written.
    """
    target = target.resolve()
    check_target(target)
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        folder, lock = _locked_folder(target)
    except OSError as error:
        raise ExportError(f"cannot write beside {target}: {error}") from error
    try:
        try:
            yield folder
            _sync(folder)
            check_target(target)
            _swap(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except BaseException as error:
        for parent in made:
            _remove_empty(parent)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise ExportError(f"{target} could not be written, and is as it was: {error}") from error
        raise
    finally:
        os.close(lock)


def write_manifest(
    bundle: Path,
    *,
    task: str,
    source: dict[str, Any],
    variants: dict[str, Variant],
    tools: dict[str, str],
    extra: dict[str, Any],
) -> Manifest:
    """Write `untorch.json` over every file that lies in the folder, and return it."""
    files = {
        path.relative_to(bundle).as_posix(): FileRecord(path.stat().st_size, digest(path))
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(task, source, files, variants, tools, created, extra)
    write_json(bundle / MANIFEST, manifest.to_json())
    return manifest


def rewrite_manifest(bundle: Path, manifest: Manifest, variants: dict[str, Variant]) -> Manifest:
    """Write `untorch.json` once more, with what was found of the `variants` meanwhile, and return it."""
    manifest = replace(manifest, variants=variants)
    write_json(bundle / MANIFEST, manifest.to_json())
    return manifest


def _prefix(target: Path) -> str:
    return f".{target.name}.untorch-"


def _locked_folder(target: Path) -> tuple[Path, int]:
    """A new hidden folder beside the target, and the descriptor that holds its lock."""
    while True:
        folder = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}")
        folder.mkdir()
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another export took it for a leftover before it was locked
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # likewise
            os.close(lock)
            continue
        if folder.exists():
            return folder, lock
        os.close(lock)


def _sweep(target: Path) -> None:
    """Remove the hidden folders of exports that no longer run; first put back a bundle that one of them moved away."""
    for leftover in sorted(target.parent.glob(f"{_prefix(target)}*")):
        try:
            lock = os.open(leftover, os.O_RDONLY)
        except FileNotFoundError:  # its export has just finished
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if leftover.name.endswith("-old") and not target.exists():
                leftover.rename(target)
            else:
                shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _swap(folder: Path, target: Path) -> None:
    """Put `folder` in the target's place; what was there is then under the folder's old name, or gone."""
    try:
        os.rename(folder, target)  # noqa: PTH104  # where there is nothing, or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _exchange(folder, target):
            old = folder.with_name(f"{folder.name}-old")
            target.rename(old)
            folder.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    _sync_folder(target.parent)


def _exchange(folder: Path, target: Path) -> bool:
    """Exchange two folders in one step. False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    failed = renameat2(_AT_FDCWD, os.fsencode(folder), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE)
    if failed and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))
    return not failed


def _sync(folder: Path) -> None:
    """Have every file and folder reach the disk, so that a crash after the swap finds them whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # someone else has put something there meanwhile
        folder.rmdir()
