"""Figures that compare two models' answers: agreement, probabilities, cosines, correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch_export.answers.base import Scores

# Two labels whose odds PyTorch itself puts within 5 % of each other are a tie: neither is the right one, and which
# comes out first is rounding. Untrained weights give many of those. Choosing the other one counts as agreeing, and
# the report says how often that happened.
TIE = 0.05


def agreement(expected: Sequence[Scores], got: Sequence[Scores]) -> dict[str, Any]:
    """How many decisions fall the same way, how many of those were ties, and the rate."""
    same = ties = total = 0
    for want, have in zip(expected, got, strict=True):
        chosen = np.take_along_axis(want, have.argmax(-1)[:, None], -1)[:, 0]
        behind = want.max(-1) - chosen
        same += int((behind <= TIE).sum())
        ties += int(((behind > 0) & (behind <= TIE)).sum())
        total += len(want)
    return {"same": same, "of": total, "ties": ties, "rate": round(same / total, 6)}


def probability_changes(expected: Sequence[Scores], got: Sequence[Scores]) -> dict[str, float]:
    """How far probabilities move: of each decision, the label that moves most. Mean, 99th percentile, maximum."""
    changes = [np.abs(_softmax(want) - _softmax(have)).max(-1) for want, have in zip(expected, got, strict=True)]
    return spread(np.concatenate(changes))


def cosines(expected: Sequence[Scores], got: Sequence[Scores]) -> dict[str, float]:
    """Cosine similarity of each text's mean vector, and of each token's: mean and minimum."""
    tokens = np.concatenate([_cosine(want, have) for want, have in zip(expected, got, strict=True)])
    means = _cosine(np.stack([want.mean(0) for want in expected]), np.stack([have.mean(0) for have in got]))
    return {
        "text_mean": figure(means.mean()),
        "text_min": figure(means.min()),
        "token_mean": figure(tokens.mean()),
        "token_min": figure(tokens.min()),
    }


def correlation(expected: Sequence[Scores], got: Sequence[Scores]) -> float:
    """Pearson correlation of two models' values over the same texts."""
    return figure(np.corrcoef(np.concatenate(expected)[:, 0], np.concatenate(got)[:, 0])[0, 1])


def correct(got: Sequence[Scores], labels: Sequence[int]) -> int:
    """How many rows' best label is the right one."""
    return sum(int(have[0].argmax() == label) for have, label in zip(got, labels, strict=True))


def spread(values: NDArray[Any]) -> dict[str, float]:
    """Mean, 99th percentile and maximum."""
    return {
        "mean": figure(values.mean()),
        "p99": figure(np.quantile(values, 0.99)),
        "max": figure(values.max()),
    }


def figure(value: Any) -> float:
    """A measured figure with as many digits as it is worth."""
    return float(f"{float(value):.4g}")


def _softmax(scores: Scores) -> Scores:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _cosine(left: Scores, right: Scores) -> Scores:
    return (left * right).sum(-1) / (np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1))
