"""Bundles from where every machine can read them: fetched once a machine, held to their manifest, told apart."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from untorch.bundle.folder import Bundle, digest, side_files
from untorch.bundle.manifest import MANIFEST, Manifest, inside
from untorch.errors import BundleError, IntegrityError


def fetched(name: str) -> str:
    """The local folder of a bundle's URL; any other name as it is.

    Processes of one machine fetch it once, and the others wait. The folder lies in `$UNTORCH_CACHE`, else
    `$XDG_CACHE_HOME/untorch`, else `~/.cache/untorch`, under its manifest's digest, so that a new bundle at an old URL
    is a new folder. Raises BundleError where there is no manifest or the URL cannot be read, IntegrityError for a file
    that is not what the manifest says.
    """
    if "://" not in name:
        return name
    # Imported here: only a URL needs it, and it brings the clients of the object stores.
    from pyarrow import ArrowException, fs

    try:
        source, root = fs.FileSystem.from_uri(name)
        with source.open_input_stream(f"{root}/{MANIFEST}") as file:
            stated = bytes(file.read())
    except (OSError, ArrowException) as error:
        raise BundleError(f"{name} holds no bundle with a manifest ({MANIFEST}): {error}") from error
    manifest = Manifest.from_json(json.loads(stated), f"{name}/{MANIFEST}")
    folder = _cache() / "bundles" / hashlib.sha256(stated).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(source, root, name, manifest, stated, folder)
    return str(folder)


def _fetch(source: object, root: str, name: str, manifest: Manifest, stated: bytes, folder: Path) -> None:
    """Copy the files that the manifest lists, check them, and only then give the folder its name."""
    from pyarrow import fs

    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        (part / MANIFEST).write_bytes(stated)
        for file in (inside(file, name) for file in manifest.files):
            (part / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                fs.copy_files(f"{root}/{file}", str(part / file), source, fs.LocalFileSystem())
            except OSError as error:
                raise IntegrityError(f"{name}/{file} cannot be fetched: {error}") from error
        try:
            Bundle(part).check()
        except IntegrityError as error:
            raise IntegrityError(str(error).replace(str(part), name)) from error
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def identity(bundle: Bundle) -> str:
    """SHA-256 over the names and digests of a bundle's files: what tells it from any other, wherever it lies."""
    if bundle.verified:
        files = {name: record.sha256 for name, record in bundle.files.items()}
    else:
        graphs = {name for variant in bundle.variants.values() for name in variant.files}
        files = {name: digest(bundle.file(name)) for name in {*graphs, *side_files(bundle.path)}}
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def _cache() -> Path:
    if cache := os.environ.get("UNTORCH_CACHE"):
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "untorch"
