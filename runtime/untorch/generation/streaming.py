"""Text as it comes: streamers, in transformers' interface, for one sequence at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from untorch.errors import InputError
from untorch.numerics import Array

if TYPE_CHECKING:
    from untorch.tokenizer import Tokenizer


class Streamer(Protocol):
    """What `generate` tells of its progress: the prompt's ids, then the ids of every step, then the end."""

    def put(self, value: Array) -> None:
        """The prompt (rows, length), then once a step the new tokens (rows,)."""
        ...

    def end(self) -> None:
        """No more will come."""
        ...


class TextStreamer:
    """Prints the text of one sequence as it becomes certain, never half a character.

    `skip_prompt` leaves the prompt out. Override `on_finalized_text` to do something else than print.
    """

    def __init__(self, tokenizer: Tokenizer, skip_prompt: bool = False, skip_special_tokens: bool = False) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self._skip_special_tokens = skip_special_tokens
        self._is_prompt = True
        self._stream = tokenizer.decode_stream(skip_special_tokens)

    def put(self, value: Array) -> None:
        """Take the prompt (1, length), then the token of every step (1,). Raises InputError for several sequences."""
        if value.ndim > 1 and len(value) > 1:
            raise InputError("a TextStreamer shows one sequence; generate them one by one, or without a streamer")
        prompt, self._is_prompt = self._is_prompt, False
        if prompt and self.skip_prompt:
            return
        for index in np.ravel(value).tolist():
            if text := self._stream.step(index):
                self.on_finalized_text(text)

    def end(self) -> None:
        """Show what was held back, and make ready for the next sequence."""
        self.on_finalized_text(self._stream.flush() or "", stream_end=True)
        self._is_prompt = True
        self._stream = self.tokenizer.decode_stream(self._skip_special_tokens)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print `text`, and a new line at the end."""
        print(text, flush=True, end="\n" if stream_end else "")
