"""Arrays: their type, what a graph declares of them, and the arithmetic that several tasks share."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Tensor(NamedTuple):
    """A graph's input or output: its name, numpy dtype name and axes (names, or sizes that are fixed)."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]

    def to_json(self) -> dict[str, Any]:
        """The form it has in the manifest."""
        return {"name": self.name, "dtype": self.dtype, "axes": list(self.axes)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Tensor:
        """Read it back from the manifest. Raises KeyError, TypeError or ValueError if it is malformed."""
        return cls(str(data["name"]), str(data["dtype"]), tuple(data["axes"]))


def softmax(logits: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along `axis`, shifted by the maximum so that it cannot overflow. Same shape and dtype."""
    logits = np.asarray(logits)
    shifted = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)  # type: ignore[no-any-return]


def log_softmax(logits: Array, axis: int = -1) -> Array:
    """The logarithm of softmax along `axis`, without taking the logarithm of a rounded-off zero."""
    shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))  # type: ignore[no-any-return]


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), elementwise. Large negative logits give 0, without a warning."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-logits))


# What makes scores of logits, by transformers' names for `function_to_apply`.
FUNCTIONS: dict[str, Callable[[Array], Array]] = {"softmax": softmax, "sigmoid": sigmoid, "none": np.asarray}


def softmax_row(logits: list[float]) -> list[float]:
    """Softmax of one row, in double precision."""
    highest = max(logits)
    exponentials = [exp(logit - highest) for logit in logits]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def sigmoid_row(logits: list[float]) -> list[float]:
    """1 / (1 + exp(-x)) of each number of a row, in double precision."""
    return [1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x)) for x in logits]


# The same for one row of so many numbers at most, which Python is done with before numpy has begun.
_FEW = 32
_ROW_FUNCTIONS: dict[str, Callable[[list[float]], list[float]]] = {
    "softmax": softmax_row,
    "sigmoid": sigmoid_row,
    "none": list,
}


def score_rows(logits: Array, function: str) -> list[list[float]]:
    """Scores of logits (rows, labels) by the `function` of that name in FUNCTIONS, as Python's numbers."""
    if logits.shape[-1] > _FEW:
        return FUNCTIONS[function](logits).tolist()  # type: ignore[no-any-return]
    return list(map(_ROW_FUNCTIONS[function], logits.tolist()))


def normalize(vectors: Array, axis: int = -1) -> Array:
    """Vectors divided by their Euclidean length; a zero vector stays zero (as torch.nn.functional.normalize does)."""
    lengths = np.linalg.norm(vectors, axis=axis, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)  # type: ignore[no-any-return]


POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def pool(states: Array, mask: Array, mode: str) -> Array:
    """Token states (batch, sequence, hidden) and mask (batch, sequence) to one vector a row (batch, hidden).

    `mode` is one of POOLINGS, sentence-transformers' names; `cls` is the first token that the mask has. Raises
    ValueError for another.
    """
    weights = mask[:, :, None].astype(states.dtype)
    rows = np.arange(len(states))
    if mode == "mean":
        return (states * weights).sum(1) / np.maximum(weights.sum(1), 1e-9)  # type: ignore[no-any-return]
    if mode == "mean_sqrt_len_tokens":
        return (states * weights).sum(1) / np.sqrt(np.maximum(weights.sum(1), 1e-9))  # type: ignore[no-any-return]
    if mode == "weightedmean":
        weights = weights * np.arange(1, mask.shape[1] + 1, dtype=states.dtype)[:, None]
        return (states * weights).sum(1) / np.maximum(weights.sum(1), 1e-9)  # type: ignore[no-any-return]
    if mode == "max":
        return np.where(weights > 0, states, -np.inf).max(1)  # type: ignore[no-any-return]
    if mode == "cls":
        return states[rows, mask.argmax(1)]  # type: ignore[no-any-return]
    if mode == "lasttoken":
        return states[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(1)]  # type: ignore[no-any-return]
    raise ValueError(f"unknown pooling {mode!r}")
