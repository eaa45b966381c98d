"""`golden.npz`: reference inputs of a bundle and PyTorch's outputs for them, replayed by `untorch verify`.

One case is one batch. The archive holds `cases.json` (the texts of each case, as UTF-8 bytes) and, for case 3,
arrays named `3/inputs/input_ids`, `3/outputs/logits` and so on. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch.errors import FormatError

# Unpacked bytes. Real references are a few megabytes; more is a bomb.
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Case:
    """One batch: its texts (None where the ids were drawn at random), input arrays and PyTorch's output arrays."""

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    texts: list[str] | None = None


def save(path: Path, cases: Sequence[Case]) -> None:
    """Write the cases. The same cases give the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    texts = json.dumps([case.texts for case in cases]).encode()
    arrays["cases.json"] = np.frombuffer(texts, dtype=np.uint8)
    for index, case in enumerate(cases):
        arrays |= {f"{index}/inputs/{name}": array for name, array in case.inputs.items()}
        arrays |= {f"{index}/outputs/{name}": array for name, array in case.outputs.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # names with a slash are still names


def load(path: Path) -> list[Case]:
    """Read the cases. Raises FormatError if the file is not such an archive."""
    try:
        with zipfile.ZipFile(path) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > _MAX_BYTES:
                raise ValueError(f"it unpacks to more than {_MAX_BYTES >> 20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            texts = json.loads(archive["cases.json"].tobytes())
            if not isinstance(texts, list):
                raise ValueError("its cases.json is not a list")
            cases = [Case({}, {}, text) for text in texts]
            for key in archive.files:
                if key != "cases.json":
                    index, kind, name = key.split("/", 2)
                    target = cases[int(index)].inputs if kind == "inputs" else cases[int(index)].outputs
                    target[name] = archive[key]
    except (
        *(OSError, ValueError, KeyError, IndexError, EOFError, TypeError, AttributeError, MemoryError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise FormatError(f"{path} is not a golden.npz: {error}") from error
    return cases
