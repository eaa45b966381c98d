"""Many inputs in windows that are answered side by side, so that a GPU has work while Python prepares more.

While the GPU runs one window, the next is tokenized and the last one's scores become answers. This knows nothing of
what a pipeline does with a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from untorch.ort.cuda.queue import run_queue

# Waits for a window's answers.
Wait = Callable[[Future[list[Any]]], list[Any]]

# Inputs of a window: with few of them the first is soon on the GPU, and the last soon behind it. And how many windows
# are under way: one on the GPU, one before it, one behind it (benchmarks/NOTES.md).
WINDOW, AHEAD = 512, 3
# Inputs of a stream that are sorted and answered together.
CHUNK = 8192


class _Part(NamedTuple):
    """A window under way, where its inputs stand in their chunk, the chunk's answers, and whether it is the last."""

    window: Future[list[Any]]
    places: list[int]
    answers: list[Any]
    last: bool


def answered(answer: Callable[[list[Any]], list[Any]], inputs: list[Any]) -> list[Any]:
    """The answers to the inputs, in order. `answer` is called from several threads, with windows.

    A window holds inputs of about one length, by their characters, wherever they stand. Raises what `answer` does;
    windows that have not begun are dropped then.
    """
    # This thread has nothing else to do meanwhile, so that the GPU need not see others.
    with run_queue.serving() as wait:
        [answers] = _chunks(answer, [inputs], wait)
    return answers


def streamed(answer: Callable[[list[Any]], list[Any]], chunks: Iterable[list[Any]]) -> Iterator[list[Any]]:
    """The same for each chunk of a stream; an empty chunk says that the stream waits for more.

    An error comes where the chunk's answers would have come.
    """
    return _chunks(answer, chunks, lambda future: future.result())


def _chunks(answer: Callable[[list[Any]], list[Any]], chunks: Iterable[list[Any]], wait: Wait) -> Iterator[list[Any]]:
    pending: deque[_Part] = deque()
    with ThreadPoolExecutor(AHEAD, "untorch-window") as pool:
        try:
            for chunk in chunks:
                if not chunk:  # the stream waits: what is under way has no company to wait for
                    while pending:
                        yield from _finished(pending, wait)
                    continue
                answers: list[Any] = [None] * len(chunk)
                order = sorted(range(len(chunk)), key=lambda place: characters(chunk[place]))
                for start in range(0, len(order), WINDOW):
                    places = order[start : start + WINDOW]
                    window = pool.submit(answer, [chunk[place] for place in places])
                    pending.append(_Part(window, places, answers, start + WINDOW >= len(order)))
                    if len(pending) == AHEAD:
                        yield from _finished(pending, wait)
            while pending:
                yield from _finished(pending, wait)
        finally:
            for part in [part for part in pending if not part.window.cancel()]:
                # Not left to the pool's end: what it still asks of the GPU may be for this thread to run.
                with suppress(Exception):
                    wait(part.window)


def _finished(pending: deque[_Part], wait: Wait) -> Iterator[list[Any]]:
    """Wait for the first window; if it was its chunk's last, the chunk's answers."""
    part = pending.popleft()
    for place, one in zip(part.places, wait(part.window), strict=True):
        part.answers[place] = one
    if part.last:
        yield part.answers


def characters(item: Any) -> int:
    """How many characters of text are in an input, whatever its task's form."""
    if isinstance(item, str):
        return len(item)
    if isinstance(item, dict):
        return sum(map(characters, item.values()))
    return sum(map(characters, item)) if isinstance(item, list | tuple) else 0
