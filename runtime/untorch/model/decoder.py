"""A decoder graph and its key-value cache. The cache stays in ONNX Runtime's values, on the session's device."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from untorch.errors import TaskError
from untorch.numerics import Array
from untorch.ort.executor import Value
from untorch.ort.session import Session

_PAST, _PRESENT = "past_key_values.", "present."
# The keys and values of the encoder's states: made by the encoder or by the first step, the same ever after.
_CROSS = ".encoder."
# What a decoder without a cache is fed of the whole text, at every step.
_TEXT = ("input_ids", "position_ids")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """Keys and values of the `length` tokens read so far, by the graph's input names: (batch, heads, length, size).

    A decoder that takes no keys and values has the tokens themselves here, and their positions: (batch, length).
    """

    values: Mapping[str, Value]
    length: int

    def __len__(self) -> int:
        return self.length

    def repeat(self, session: Session, times: int) -> Cache:
        """Every row `times` times in a row."""
        copied = {name: session.value(value.numpy().repeat(times, 0)) for name, value in self.values.items()}
        return Cache(copied, self.length)

    def reorder(self, session: Session, rows: Array) -> Cache:
        """The cache whose row i is row `rows[i]` of this one. Rows that trade places share their encoder states."""
        taken = {
            name: value if _CROSS in name else session.value(value.numpy().take(rows, 0))
            for name, value in self.values.items()
        }
        return Cache(taken, self.length)


class Decoder:
    """Runs a decoder graph: tokens and a cache in, logits and the cache after them out.

    A graph that takes no cache reads the whole text again at every step; the log says so once. Raises TaskError for a
    graph that takes a cache and does not give it back.
    """

    def __init__(self, session: Session, where: object) -> None:
        self.session = session
        self.input_names = frozenset(tensor.name for tensor in session.inputs)
        self._past = [tensor for tensor in session.inputs if tensor.name.startswith(_PAST)]
        outputs = {tensor.name for tensor in session.outputs}
        own = [tensor.name for tensor in self._past if _CROSS not in tensor.name]
        if any(_present(name) not in outputs for name in own) or (self._past and not own):
            raise TaskError(
                f"{where} holds a decoder that takes a key-value cache and does not give it back; export it again with "
                "`untorch export`"
            )
        if not own:
            logger.warning(
                "%s holds a decoder without a key-value cache, which reads the whole text again for every new token. "
                "It is faster with one: `untorch export`, or optimum-cli's tasks that end in -with-past",
                where,
            )
        self._first = [tensor.name for tensor in self._past if _present(tensor.name) in outputs]
        self._later = own
        self._merged = "use_cache_branch" in self.input_names

    def begin(self, rows: int, encoded: Mapping[str, Value]) -> Cache | None:
        """The cache before the first step, from the keys and values that an encoder gave, by output name.

        None where it gave none: the first step makes them then.
        """
        if not encoded or not self._past:
            return None
        empty = self._empty(rows)
        cross = {name: encoded[_present(name)] for name in empty if _CROSS in name}
        return Cache({**empty, **cross}, 0)

    def run(self, feeds: Mapping[str, Array | Value], cache: Cache | None) -> tuple[Array, Cache]:
        """Read `feeds["input_ids"]` (batch, sequence) after what is in the cache.

        Returns logits (batch, sequence, vocabulary) and the cache that holds the new tokens too. Feeds that the graph
        does not have are left out.
        """
        rows, length = feeds["input_ids"].shape
        given = {name: feed for name, feed in feeds.items() if name in self.input_names}
        if not self._past:
            return self._run_whole(given, cache)
        names = self._first if cache is None else self._later
        given |= self._empty(rows) if cache is None else cache.values
        if self._merged:
            given["use_cache_branch"] = np.array([cache is not None])
        (logits,), values = self.session.run_values(given, ["logits"], [_present(name) for name in names])
        kept = {} if cache is None else cache.values
        new = dict(zip(names, values, strict=True))
        return logits, Cache({**kept, **new}, length + (0 if cache is None else len(cache)))

    def _run_whole(self, given: dict[str, Array | Value], cache: Cache | None) -> tuple[Array, Cache]:
        text = {name: given[name] for name in _TEXT if name in given}
        length = text["input_ids"].shape[1]
        if cache is not None:
            text = {name: np.concatenate([cache.values[name].numpy(), new], axis=1) for name, new in text.items()}
        (logits,), _ = self.session.run_values(given | text, ["logits"], [])
        read = {name: self.session.value(array) for name, array in text.items()}
        return logits[:, -length:], Cache(read, text["input_ids"].shape[1])

    def _empty(self, rows: int) -> dict[str, Value]:
        return {
            tensor.name: self.session.value(
                np.zeros((rows, *(size if isinstance(size, int) else 0 for size in tensor.axes[1:])), tensor.dtype)
            )
            for tensor in self._past
        }


def _present(name: str) -> str:
    return name.replace(_PAST, _PRESENT, 1)
