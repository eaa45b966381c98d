"""The texts on which answers are compared: the built-in ones, or a file of the user's, with labels or without.

Every task reads lines of plain text, one text a line (two, by a tab, where texts come in pairs). With labels:

    one label a text      a header with `label` and one or two columns of text, by tabs: names or numbers, several by
                          commas where a text can have several, numbers where the model gives a number
    sentence embeddings   the same with two columns of text; `label` is how alike they are
    tagged words          a word and its tag a line, by a tab or a space, and an empty line after a sentence (CoNLL)
    questions             a header with `question`, `context` and `answer`, by tabs; or SQuAD's JSON
    choices               a header with `label` (a number from 0), a column of text, and one for every choice
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from untorch.bundle.folder import digest
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.errors import ExportError
from untorch_export.parity import quality
from untorch_export.parity.quality import Quality
from untorch_export.parity.texts import TEXTS


@dataclass(frozen=True)
class EvalSet:
    """Texts, a second text for each where the task reads pairs, and what is known of the right answers.

    `labels` are those of a head that chooses one of several, by which every batch is judged; `quality` is any other
    measure by labels, asked of the whole pipeline. `about` says in a report where the texts are from.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | None
    about: dict[str, Any]
    quality: Quality | None = None


def shorter(given: EvalSet, short: int, long: int) -> EvalSet:
    """So many of the shortest texts of a set without labels, and of the longest."""
    order = sorted(range(len(given.texts)), key=lambda index: len(given.texts[index]))
    kept = sorted({*order[:short], *order[max(short, len(order) - long) :]})
    texts = [given.texts[index] for index in kept]
    pairs = [given.pairs[index] for index in kept] if given.pairs is not None else None
    return EvalSet(texts, pairs, None, {**given.about, "count": len(kept)})


def built_in(*, pairs: bool) -> EvalSet:
    """The project's own texts; as pairs, each with the one seven further on."""
    seconds = [TEXTS[(index + 7) % len(TEXTS)] for index in range(len(TEXTS))] if pairs else None
    return EvalSet(list(TEXTS), seconds, None, {"source": "built-in", "count": len(TEXTS)})


def read(path: Path, checkpoint: Checkpoint) -> EvalSet:
    """Read a file for a checkpoint's task. Raises ExportError, with the line, for one that is not as it should be."""
    text = _text(path)
    about = {"source": path.name, "sha256": digest(path)}
    reader = _READERS.get(checkpoint.task.name)
    if reader is not None:
        found = reader(path, text, checkpoint, about)
        if found is not None:
            return found
    return _lines(path, text, checkpoint, about)


def read_lines(path: Path) -> list[str]:
    """Read a file of one text a line, for calibration; empty lines are skipped.

    Raises ExportError if it cannot be read as UTF-8 or holds no text.
    """
    return _nonempty(path, _text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _nonempty(path: Path, text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ExportError(f"{path} holds no text; such a file has one text a line")
    return lines


def _lines(path: Path, text: str, checkpoint: Checkpoint, about: dict[str, Any]) -> EvalSet:
    lines = _nonempty(path, text)
    about = {**about, "count": len(lines)}
    if not checkpoint.task.pairs:
        return EvalSet(lines, None, None, about)
    columns = [line.split("\t") for line in lines]
    for number, row in enumerate(columns, start=1):
        if len(row) != 2:
            raise ExportError(f"{path}, line {number}: {checkpoint.task.name} reads two texts a line, by a tab")
    return EvalSet([row[0] for row in columns], [row[1] for row in columns], None, about)


@dataclass(frozen=True)
class _Table:
    """A tab-separated file with a header: its rows by line, and the columns that are texts."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def column(self, name: str) -> list[str]:
        at = self.header.index(name)
        return [row[at] for _, row in self.rows]

    def others(self, *names: str) -> list[list[str]]:
        """The columns that are not of these names, in order."""
        return [self.column(name) for name in self.header if name not in names]


def _table(path: Path, text: str, column: str) -> _Table | None:
    """The table, None for a file whose first line is no header with this column. Raises ExportError for a bad row."""
    try:
        rows = list(csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    except csv.Error as error:
        raise ExportError(f"{path} cannot be read as tab-separated text with a header: {error}") from error
    if not rows or column not in rows[0]:
        return None
    header, *body = rows
    kept = [(line, row) for line, row in enumerate(body, start=2) if row]
    if not kept:
        raise ExportError(f"{path} has a header with `{column}` and no rows")
    for line, row in kept:
        if len(row) != len(header):
            raise ExportError(f"{path}, line {line}: {len(row)} columns where the header has {len(header)}")
    return _Table(path, header, kept)


def _labelled(path: Path, text: str, checkpoint: Checkpoint, about: dict[str, Any]) -> EvalSet | None:
    """Labels of whole texts: one of several, several at once, or a number."""
    table = _table(path, text, "label")
    if table is None:
        return None
    columns = table.others("label")
    if len(columns) not in (1, 2):
        raise ExportError(f"{path} needs a header with `label` and one or two text columns; it has {table.header}")
    texts, pairs = columns[0], columns[1] if len(columns) == 2 else None
    about = {**about, "count": len(texts)}
    config = checkpoint.config
    if checkpoint.answer.measure == "correlation":
        numbers = _numbers(table)
        return EvalSet(texts, pairs, None, about, quality.numbers(checkpoint.task.name, texts, pairs, numbers))
    names = {str(name): int(index) for index, name in config["id2label"].items()}
    known = {**{str(index): index for index in names.values()}, **names}
    several = config.get("problem_type") == "multi_label_classification"
    labels: list[list[int]] = []
    for (line, _), cell in zip(table.rows, table.column("label"), strict=True):
        given = [name.strip() for name in cell.split(",") if name.strip()] if several else [cell]
        for name in given:
            if name not in known:
                raise ExportError(f"{path}, line {line}: label {name!r} is none of the model's: {', '.join(known)}")
        labels.append([known[name] for name in given])
    if several:
        named = {index: name for name, index in names.items()}
        right = [{named[index] for index in row} for row in labels]
        return EvalSet(texts, pairs, None, about, quality.flags(texts, pairs, right))
    return EvalSet(texts, pairs, [row[0] for row in labels], about)


def _numbers(table: _Table) -> list[float]:
    numbers = []
    for (line, _), cell in zip(table.rows, table.column("label"), strict=True):
        try:
            numbers.append(float(cell))
        except ValueError:
            raise ExportError(f"{table.path}, line {line}: label {cell!r} is no number") from None
    return numbers


def _alike(path: Path, text: str, _checkpoint: Checkpoint, about: dict[str, Any]) -> EvalSet | None:
    table = _table(path, text, "label")
    if table is None:
        return None
    columns = table.others("label")
    if len(columns) != 2:
        raise ExportError(f"{path} needs a header with `label` and two text columns; it has {table.header}")
    first, second = columns
    about = {**about, "count": len(first)}
    return EvalSet([*first, *second], None, None, about, quality.similarity(first, second, _numbers(table)))


def _tagged(path: Path, text: str, _checkpoint: Checkpoint, about: dict[str, Any]) -> EvalSet | None:
    sentences: list[list[tuple[str, str]]] = [[]]
    lines = text.splitlines()
    if not any("\t" in line or line.rpartition(" ")[2][:2] in ("B-", "I-") for line in lines):
        return None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            sentences.append([])
            continue
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) < 2:
            raise ExportError(f"{path}, line {number}: a line is a word and its tag, with a tab or a space between")
        sentences[-1].append((columns[0], columns[-1]))
    sentences = [sentence for sentence in sentences if sentence]
    words = [[word for word, _ in sentence] for sentence in sentences]
    tags = [[tag for _, tag in sentence] for sentence in sentences]
    texts = [" ".join(row) for row in words]
    return EvalSet(texts, None, None, {**about, "count": len(texts)}, quality.entities(words, tags))


def _asked(path: Path, text: str, _checkpoint: Checkpoint, about: dict[str, Any]) -> EvalSet | None:
    if text.lstrip().startswith("{"):
        asked = _squad(path, text)
    else:
        table = _table(path, text, "answer")
        if table is None:
            return None
        if not {"question", "context"} <= set(table.header):
            raise ExportError(f"{path} needs a header with `question`, `context` and `answer`; it has {table.header}")
        columns = (table.column(name) for name in ("question", "context", "answer"))
        asked = [(question, context, [answer]) for question, context, answer in zip(*columns, strict=True)]
    questions, contexts, answers = (list(column) for column in zip(*asked, strict=True))
    about = {**about, "count": len(asked)}
    return EvalSet(questions, contexts, None, about, quality.spans(questions, contexts, answers))


def _squad(path: Path, text: str) -> list[tuple[str, str, list[str]]]:
    try:
        return [
            (question["question"], paragraph["context"], [answer["text"] for answer in question["answers"]] or [""])
            for article in json.loads(text)["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is no file of questions as SQuAD has them: {error!r}") from error


def _chosen(path: Path, text: str, _checkpoint: Checkpoint, about: dict[str, Any]) -> EvalSet | None:
    table = _table(path, text, "label")
    if table is None:
        return None
    columns = table.others("label")
    if len(columns) < 3:
        raise ExportError(f"{path} needs a header with `label`, a text, and two or more choices; it has {table.header}")
    texts, *choices = columns
    right = [int(number) for number in _numbers(table)]
    about = {**about, "count": len(texts)}
    return EvalSet(texts, None, None, about, quality.choices(texts, list(zip(*choices, strict=True)), right))


_Reader = Callable[[Path, str, Checkpoint, dict[str, Any]], EvalSet | None]
_READERS: dict[str, _Reader] = {
    "text-classification": _labelled,
    "text-ranking": _labelled,
    "zero-shot-classification": _labelled,
    "sentence-embeddings": _alike,
    "token-classification": _tagged,
    "question-answering": _asked,
    "multiple-choice": _chosen,
}
