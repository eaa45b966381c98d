"""When a sequence is finished: at its full length, at an eos id, at a stop string, or when the caller says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from untorch.errors import InputError
from untorch.generation.config import GenerationConfig
from untorch.numerics import Array

if TYPE_CHECKING:
    from untorch.tokenizer import Tokenizer


class Stopping:
    """Says of ids (rows, length) which rows are finished, a boolean for each.

    Raises InputError where there are stop strings and no tokenizer to find them with.
    """

    def __init__(
        self,
        config: GenerationConfig,
        tokenizer: Tokenizer | None,
        criteria: Callable[[Array, Array | None], Array] | None = None,
    ) -> None:
        self._criteria = criteria
        strings = config.stop_strings
        self._strings = [] if strings is None else [strings] if isinstance(strings, str) else list(strings)
        if self._strings and tokenizer is None:
            raise InputError("stop_strings need the tokenizer: generate(…, tokenizer=tokenizer)")
        if not all(self._strings):
            raise InputError("a stop string is empty")
        self._tokenizer = tokenizer
        self._max_length = config.max_length
        self._eos = np.array(config.eos_tokens(), dtype=np.int64)
        # A token is a byte at the least, and the decoder treats the first token of a text differently.
        self._tail = max((len(string.encode()) for string in self._strings), default=0) + 4

    def __call__(self, ids: Array) -> Array:
        """Which rows are finished."""
        if ids.shape[1] >= self._max_length:
            return np.ones(len(ids), dtype=bool)
        finished = np.isin(ids[:, -1], self._eos)
        if self._strings:
            finished |= np.array([self._stops(row) for row in ids[:, -self._tail :]])
        if self._criteria is not None:
            finished |= self._criteria(ids, None)
        return finished

    def _stops(self, tail: Array) -> bool:
        """Whether the last token completes a stop string; more may follow it inside the token."""
        assert self._tokenizer is not None
        text = self._tokenizer.decode(tail, clean_up_tokenization_spaces=False)
        # U+FFFD at the end is a character that the last token may have completed.
        before = len(self._tokenizer.decode(tail[:-1], clean_up_tokenization_spaces=False).rstrip("\ufffd"))
        return any(text.find(string, max(0, before + 1 - len(string))) >= 0 for string in self._strings)
