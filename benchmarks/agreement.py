"""Compares an engine's answers with PyTorch's. An engine whose answers do not agree is not timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FP32_LIMIT = 1e-4
# Reduced precision: the 99th percentile of the change of a label's probability, and the share of equal labels among the
# texts that the reference is sure of. These limits are loose, so that plain dynamic int8 takes part. How faithful each
# engine is has rows of its own among the goals.
CHANGE_LIMIT = 0.35
LABELS_LIMIT = 0.95
SURE = 0.65
COSINE_LIMIT = 0.97


@dataclass(frozen=True)
class Agreement:
    """How close answers are: `largest` and `p99` of the absolute difference, `same` the share of equal labels.

    For vectors `same` is the smallest cosine. `rule` says in words what was asked.
    """

    texts: int
    largest: float
    p99: float
    same: float
    passed: bool
    rule: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def compare(reference: Sequence[Any], given: Sequence[Any], precision: str) -> Agreement:
    """Compare (label, score) pairs, or vectors, with the reference's.

    Raises ValueError if the numbers of answers differ.
    """
    if len(reference) != len(given):
        raise ValueError(f"{len(given)} answers came back for {len(reference)} texts")
    if isinstance(reference[0][0], str):
        return _labels(reference, given, precision)
    return _vectors(np.asarray(reference, float), np.asarray(given, float), precision)


def _labels(reference: Sequence[Any], given: Sequence[Any], precision: str) -> Agreement:
    equal = np.array([a[0] == b[0] for a, b in zip(reference, given, strict=True)])
    scores = np.array([a[1] for a in reference])
    others = np.array([b[1] for b in given])
    # The probability of the reference's label. With two labels, an answer with the other label says one minus its own.
    differences = np.abs(scores - np.where(equal, others, 1 - others))
    largest, p99 = float(differences.max()), float(np.percentile(differences, 99))
    same = float(equal.mean())
    if precision == "fp32":
        # A label may differ only where both are as likely.
        passed = largest <= FP32_LIMIT and bool((equal | (scores <= 0.5 + FP32_LIMIT)).all())
        rule = f"every probability within {FP32_LIMIT:g}"
    else:
        sure = equal[scores >= SURE]
        passed = p99 <= CHANGE_LIMIT and (not sure.size or float(sure.mean()) >= LABELS_LIMIT)
        rule = f"99 % of probabilities within {CHANGE_LIMIT:g}, {LABELS_LIMIT:.0%} of labels over {SURE:g} equal"
    return Agreement(len(reference), largest, p99, same, passed and bool(np.isfinite(differences).all()), rule)


def _vectors(reference: np.ndarray, given: np.ndarray, precision: str) -> Agreement:
    if reference.shape != given.shape:
        return Agreement(len(reference), float("inf"), float("inf"), 0.0, False, "vectors of one size")
    differences = np.abs(reference - given).max(axis=1)
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(given, axis=1)
    cosine = float(((reference * given).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
    largest, p99 = float(differences.max()), float(np.percentile(differences, 99))
    if precision == "fp32":
        passed, rule = largest <= FP32_LIMIT, f"every component within {FP32_LIMIT:g}"
    else:
        passed, rule = cosine >= COSINE_LIMIT, f"every cosine at least {COSINE_LIMIT:g}"
    return Agreement(len(reference), largest, p99, cosine, passed and bool(np.isfinite(differences).all()), rule)
