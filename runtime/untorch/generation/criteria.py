"""What a caller adds to `generate`: processors of scores and criteria to stop, in transformers' interface.

Arrays are numpy's, in and out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from untorch.errors import InputError
from untorch.generation.processors import Processor
from untorch.numerics import Array


class LogitsProcessor(ABC):
    """Changes the scores of the next token: override `__call__`."""

    @abstractmethod
    def __call__(self, input_ids: Array, scores: Array) -> Array:
        """Take the ids so far (rows, length) and scores (rows, vocabulary); give new scores of that shape."""


class LogitsProcessorList(list[Any]):
    """Several processors, each working on what the one before gave."""

    def __call__(self, input_ids: Array, scores: Array, **kwargs: Any) -> Array:
        """Take the ids so far (rows, length) and scores (rows, vocabulary); give new scores of that shape.

        `kwargs` are passed to processors whose call takes more than these two.
        """
        for processor in self:
            scores = processor(input_ids, scores, **kwargs)
        return scores


class StoppingCriteria(ABC):
    """Says when a sequence is finished: override `__call__`."""

    @abstractmethod
    def __call__(self, input_ids: Array, scores: Array | None, **kwargs: Any) -> Any:
        """Take the ids so far (rows, length); say which rows are finished: (rows,) booleans, or one for all.

        `scores` is None, as in transformers where scores are not asked for.
        """


class StoppingCriteriaList(list[Any]):
    """Several criteria: a row is finished where one of them says so."""

    def __call__(self, input_ids: Array, scores: Array | None, **kwargs: Any) -> Array:
        """(rows,) booleans: which rows are finished."""
        finished = np.zeros(len(input_ids), dtype=bool)
        for criterion in self:
            finished |= _rows(criterion(input_ids, scores, **kwargs), len(input_ids), criterion)
        return finished


def callers_processors(processors: Iterable[Any] | None) -> list[Processor]:
    """The caller's processors as generation runs them: each answer is checked. Raises InputError for what is none."""
    return [_checked(processor) for processor in _callables(processors, "logits_processor")]


def callers_criteria(criteria: Iterable[Any] | None) -> StoppingCriteriaList:
    """The caller's criteria. Raises InputError for what is none."""
    return StoppingCriteriaList(_callables(criteria, "stopping_criteria"))


def prefix_processor(allowed: Callable[[int, Array], Any], beams: int) -> Processor:
    """Only the tokens that `allowed(text's number, ids so far (length,))` lists; `beams` rows belong to one text."""
    if not callable(allowed):
        raise InputError(f"prefix_allowed_tokens_fn is {allowed!r}; it is a function of a text's number and its ids")

    def process(ids: Array, scores: Array) -> Array:
        kept = np.full_like(scores, -np.inf)
        for row, sequence in enumerate(ids):
            tokens = np.asarray(allowed(row // beams, sequence), dtype=np.int64)
            if not tokens.size:
                raise InputError("prefix_allowed_tokens_fn gave no token; it lists at least one")
            kept[row, tokens] = scores[row, tokens]
        return kept

    return process


def _callables(given: Any, name: str) -> list[Any]:
    if given is None:
        return []
    found = list(given) if isinstance(given, Iterable) else [given]
    if not isinstance(given, (list, tuple)) or not all(callable(one) for one in found):
        raise InputError(f"{name} is {given!r}; it is a list of functions of (input_ids, scores)")
    return found


def _checked(processor: Callable[[Array, Array], Any]) -> Processor:
    def process(ids: Array, scores: Array) -> Array:
        changed = np.asarray(processor(ids, scores))
        if changed.shape != scores.shape or changed.dtype.kind != "f":
            raise InputError(
                f"the logits processor {_name(processor)} gave {changed.dtype} of shape {changed.shape}; scores are "
                f"numbers of shape {scores.shape}"
            )
        return changed.astype(scores.dtype, copy=False)

    return process


def _rows(answer: Any, rows: int, criterion: Any) -> Array:
    finished = np.asarray(answer)
    if finished.dtype != bool or finished.shape not in ((), (rows,)):
        raise InputError(
            f"the stopping criterion {_name(criterion)} gave {answer!r}; it gives one boolean, or one for each of the "
            f"{rows} rows"
        )
    return np.broadcast_to(finished, (rows,))


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
