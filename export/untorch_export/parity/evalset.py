"""The texts on which answers are compared: the built-in ones, or a labelled file of the user's."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from untorch.bundle.folder import digest
from untorch_export.errors import ExportError
from untorch_export.parity.texts import TEXTS


@dataclass(frozen=True)
class EvalSet:
    """Texts, a second text for each where the task reads pairs, and labels where they are known.

    `about` says in a report where they are from.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | None
    about: dict[str, Any]


def built_in(*, pairs: bool) -> EvalSet:
    """The project's own texts; as pairs, each with the one seven further on."""
    seconds = [TEXTS[(index + 7) % len(TEXTS)] for index in range(len(TEXTS))] if pairs else None
    return EvalSet(list(TEXTS), seconds, None, {"source": "built-in", "count": len(TEXTS)})


def read(path: Path, config: dict[str, Any]) -> EvalSet:
    """Read a tab-separated file: a header, a column `label` (number or name), and one or two columns of text.

    Raises ExportError, with the line, for anything else.
    """
    if len(config.get("id2label") or ()) < 2 or config.get("problem_type") == "multi_label_classification":
        raise ExportError(f"{path}: labels can be compared for a head that chooses one label of several")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise ExportError(f"{path} cannot be read as tab-separated text with a header: {error}") from error
    columns = [index for index, name in enumerate(header) if name != "label"]
    if "label" not in header or len(columns) not in (1, 2) or not rows:
        raise ExportError(f"{path} needs a header with `label` and one or two text columns, and rows; it has {header}")
    at = header.index("label")
    names = {str(name): int(index) for index, name in config["id2label"].items()}
    known = {**{str(index): index for index in names.values()}, **names}
    labels = []
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ExportError(f"{path}, line {line}: {len(row)} columns where the header has {len(header)}")
        if row[at] not in known:
            raise ExportError(f"{path}, line {line}: label {row[at]!r} is none of the model's: {', '.join(known)}")
        labels.append(known[row[at]])
    return EvalSet(
        texts=[row[columns[0]] for row in rows],
        pairs=[row[columns[1]] for row in rows] if len(columns) == 2 else None,
        labels=labels,
        about={"source": path.name, "sha256": digest(path), "count": len(rows)},
    )


def read_lines(path: Path) -> list[str]:
    """Read a file of one text a line, for calibration; empty lines are skipped.

    Raises ExportError if it cannot be read as UTF-8 or holds no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read as UTF-8 text, one text a line: {error}") from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise ExportError(f"{path} holds no text; a calibration file has one text a line")
    return texts
