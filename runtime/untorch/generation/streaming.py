"""Text as it comes: streamers, in transformers' interface, for one sequence at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from queue import Queue
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from untorch.bundle.arguments import refuse_unknown
from untorch.errors import InputError
from untorch.numerics import Array
from untorch.values import flag, read, real

if TYPE_CHECKING:
    import asyncio

    from untorch.tokenizer import DecodeStream, Tokenizer

# What a streamer's decoding takes.
_DECODING = ("skip_special_tokens", "clean_up_tokenization_spaces")


class Streamer(Protocol):
    """What `generate` tells of its progress: the prompt's ids, then the ids of every step, then the end."""

    def put(self, value: Array) -> None:
        """The prompt (rows, length), then once a step the new tokens (rows,)."""
        ...

    def end(self) -> None:
        """No more will come."""
        ...


class BaseStreamer(ABC):
    """What transformers derives streamers from: override `put` and `end`."""

    @abstractmethod
    def put(self, value: Array) -> None:
        """Take the prompt (rows, length), then once a step the new tokens (rows,)."""

    @abstractmethod
    def end(self) -> None:
        """Take note that no more will come."""


class TextStreamer(BaseStreamer):
    """Prints the text of one sequence as it becomes certain, never half a character.

    `skip_prompt` leaves the prompt out. `decode_kwargs` are those of the tokenizer's `decode`: `skip_special_tokens`
    and `clean_up_tokenization_spaces`, with its defaults. The pieces joined are what `decode` gives; where transformers
    cuts them elsewhere, it waits for the end of a word. Override `on_finalized_text` to do something else than print.
    Raises InputError for another argument.
    """

    def __init__(self, tokenizer: Tokenizer, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        for name in decode_kwargs:
            if name not in _DECODING:
                refuse_unknown(name, [*_DECODING, "skip_prompt"], type(self).__name__)
        self.tokenizer = tokenizer
        self.skip_prompt = read(flag, "skip_prompt", skip_prompt)
        self.decode_kwargs = decode_kwargs
        self.next_tokens_are_prompt = True
        self._stream = self._fresh()

    def put(self, value: Array) -> None:
        """Take the prompt (1, length), then the token of every step (1,). Raises InputError for several sequences."""
        value = np.asarray(value)
        if value.ndim > 1 and len(value) > 1:
            raise InputError("a TextStreamer shows one sequence; generate them one by one, or without a streamer")
        prompt, self.next_tokens_are_prompt = self.next_tokens_are_prompt, False
        if prompt and self.skip_prompt:
            return
        for index in np.ravel(value).tolist():
            if text := self._stream.step(index):
                self.on_finalized_text(text)

    def end(self) -> None:
        """Show what was held back, and make ready for the next sequence."""
        text = self._stream.flush() or ""
        self.next_tokens_are_prompt = True
        self._stream = self._fresh()
        self.on_finalized_text(text, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print `text`, and a new line at the end."""
        print(text, flush=True, end="\n" if stream_end else "")

    def _fresh(self) -> DecodeStream:
        skip = self.decode_kwargs.get("skip_special_tokens", False)
        clean = self.decode_kwargs.get("clean_up_tokenization_spaces")
        return self.tokenizer.decode_stream(skip, clean)


class TextIteratorStreamer(TextStreamer):
    """Gives the text piece by piece to whoever iterates over it, while `generate` runs in another thread.

        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
        for text in streamer:
            ...

    `timeout` is how many seconds an iteration waits for the next piece (None: as long as it takes); `queue.Empty` is
    raised then, as in transformers. An error of `generate` stays in its thread: with a timeout it is noticed here.
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: Queue[str | None] = Queue()
        self.stop_signal = None
        self.timeout = None if timeout is None else read(real, "timeout", timeout)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put `text` in the queue, and at the end what stops the iteration."""
        self.text_queue.put(text, timeout=self.timeout)
        if stream_end:
            self.text_queue.put(self.stop_signal, timeout=self.timeout)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        text = self.text_queue.get(timeout=self.timeout)
        if text is None:
            raise StopIteration
        return text


class AsyncTextIteratorStreamer(TextStreamer):
    """The same for an asyncio task, which iterates with `async for`; made in the task's own event loop.

    An iteration that waits longer than `timeout` seconds raises TimeoutError.
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        import asyncio  # here: it takes longer to import than all else that generates

        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.stop_signal = None
        self.timeout = None if timeout is None else read(real, "timeout", timeout)
        self.loop = asyncio.get_running_loop()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put `text` in the queue, and at the end what stops the iteration."""
        self.loop.call_soon_threadsafe(self.text_queue.put_nowait, text)
        if stream_end:
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, self.stop_signal)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        import asyncio

        async with asyncio.timeout(self.timeout):
            text = await self.text_queue.get()
        if text is None:
            raise StopAsyncIteration
        return text
