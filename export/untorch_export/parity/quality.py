"""Right answers that the user knows, and how many of them a pipeline gives: accuracy, F1, exact match, correlation."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Quality:
    """A measure by labels: `inputs` for the pipeline, with `arguments`, and `score`, which gives points of 100."""

    name: str
    inputs: list[Any]
    score: Callable[[list[Any]], float]
    arguments: dict[str, Any] = field(default_factory=dict)


_CUT = {"truncation": True}


def numbers(task: str, texts: Sequence[str], pairs: Sequence[str] | None, right: Sequence[float]) -> Quality:
    """Numbers that a model gives, by Spearman's correlation with the right ones."""
    if task == "text-ranking" and pairs is not None:
        asked: list[Any] = [{"query": one, "passages": [other]} for one, other in zip(texts, pairs, strict=True)]
        return Quality("Spearman", asked, lambda got: _spearman([row[0]["score"] for row in got], right), _CUT)
    arguments = {"function_to_apply": "none", **_CUT}

    def score(got: list[Any]) -> float:
        return _spearman([row["score"] for row in got], right)

    return Quality("Spearman", _paired(texts, pairs), score, arguments)


def flags(texts: Sequence[str], pairs: Sequence[str] | None, right: Sequence[set[str]]) -> Quality:
    """Several labels a text, by F1 over all of them: a label is given from a score of 0.5 on."""

    def score(got: list[Any]) -> float:
        given = ({row["label"] for row in rows if row["score"] >= 0.5} for rows in got)
        return _f1(zip(given, right, strict=True))

    return Quality("label F1", _paired(texts, pairs), score, {"top_k": None, **_CUT})


def similarity(first: Sequence[str], second: Sequence[str], right: Sequence[float]) -> Quality:
    """How alike two texts are, by Spearman's correlation of their vectors' cosines with the right numbers."""

    def score(got: list[Any]) -> float:
        vectors = np.asarray(got, np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return _spearman((vectors[: len(first)] * vectors[len(first) :]).sum(1), right)

    return Quality("Spearman", [*first, *second], score, _CUT)


def entities(words: list[list[str]], tags: list[list[str]]) -> Quality:
    """Entities, by F1: one counts where its first word, its last word and its kind are right. A word's tag is that of
    its first token.
    """  # noqa: D205

    def score(got: list[Any]) -> float:
        found = (_spans(_tags(row, sentence)) for row, sentence in zip(got, words, strict=True))
        return _f1(zip(found, map(_spans, tags), strict=True))

    arguments = {"is_split_into_words": True, "ignore_labels": [], **_CUT}
    return Quality("entity F1", list(words), score, arguments)


def spans(questions: Sequence[str], contexts: Sequence[str], answers: Sequence[list[str]]) -> Quality:
    """Answers in a context, by exact match as SQuAD measures it: without case, articles and punctuation."""

    def score(got: list[Any]) -> float:
        pairs = zip(got, answers, strict=True)
        right = sum(_plain(row["answer"]) in map(_plain, known) for row, known in pairs)
        return 100 * right / len(answers)

    asked = [{"question": one, "context": other} for one, other in zip(questions, contexts, strict=True)]
    return Quality("exact match", asked, score)


def choices(texts: Sequence[str], offered: Sequence[Sequence[str]], right: Sequence[int]) -> Quality:
    """Choices, by accuracy."""

    def score(got: list[Any]) -> float:
        return 100 * sum(row[0]["index"] == index for row, index in zip(got, right, strict=True)) / len(right)

    asked = [{"text": text, "choices": list(row)} for text, row in zip(texts, offered, strict=True)]
    return Quality("accuracy", asked, score, _CUT)


def _paired(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Any]:
    if pairs is None:
        return list(texts)
    return [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)]


def _tags(tokens: list[dict[str, Any]], words: list[str]) -> list[str]:
    """Each word's tag: that of the token which begins where the word does. A word that was cut off has none."""
    starts = {token["start"]: token["entity"] for token in reversed(tokens)}
    tags, at = [], 0
    for word in words:
        tags.append(starts.get(at, "O"))
        at += len(word) + 1
    return tags


def _spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of tags B-kind, I-kind and O: (kind, first word, word after the last)."""
    found, start, kind = set(), 0, ""
    for at, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            found.add((kind, start, at))
            kind = ""
        if not kind and prefix in ("B", "I"):
            start, kind = at, name
    return found


def _f1(pairs: Iterable[tuple[set[Any], set[Any]]]) -> float:
    """F1 of what was given against what is right, over all texts, in points of 100."""
    hits = given = right = 0
    for got, want in pairs:
        hits, given, right = hits + len(got & want), given + len(got), right + len(want)
    return 200 * hits / (given + right) if given + right else 100.0


def _plain(answer: str) -> str:
    """An answer as SQuAD compares it."""
    kept = "".join(letter for letter in answer.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _spearman(got: Any, right: Any) -> float:
    """Spearman's rank correlation, times 100; equal values share the mean of their ranks."""
    return 100 * float(np.corrcoef(_ranks(np.asarray(got)), _ranks(np.asarray(right)))[0, 1])


def _ranks(values: Any) -> Any:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts - 1) / 2)[inverse]
