"""Joins the parts of a tar.xz file and unpacks them, where there is no xz program: unpack.py PARTS TARGET."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path


def unpack(parts: Path, target: Path) -> None:
    """Unpack what the files of the folder `parts` are together, in the order of their names, into `target`.

    Folders are made for their files: an archive made of a wheel may list them as empty files.
    """
    whole = b"".join(part.read_bytes() for part in sorted(parts.iterdir()))
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:xz") as archive:
        archive.extractall(target, [member for member in archive if not member.name.endswith("/")], filter="data")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
