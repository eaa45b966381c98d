"""Texts that a language model writes, several at a time: each in turn gets its next token."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from untorch.numerics import softmax
from untorch.serving.errors import RefusalError

if TYPE_CHECKING:
    from untorch.pipelines.text_generation import TextGenerationPipeline
    from untorch.serving.models import Turns


@dataclass(frozen=True, slots=True)
class Step:
    """One new token: the text it makes certain (maybe none), and log-probabilities where they were asked for."""

    token: int
    text: str
    logprob: float | None = None
    # The likeliest tokens at this place and their log-probabilities, the likeliest first.
    top: tuple[tuple[int, float], ...] = ()
    ends: bool = False
    prompt_tokens: int = 0


class Stream:
    """One text being written. Iterate over its steps; closing it frees its place."""

    def __init__(self, steps: Callable[[], Iterator[Step]], loop: asyncio.AbstractEventLoop) -> None:
        self._make = steps
        self._steps: Iterator[Step] | None = None
        self._loop = loop
        self._given: asyncio.Queue[Step | BaseException | None] = asyncio.Queue()
        self.closed = False
        self.begun = 0.0

    def advance(self) -> bool:
        """Write one more token, in the writing thread; whether there will be more."""
        try:
            if self._steps is None:
                self._steps, self.begun = self._make(), time.monotonic()
            step: Step | BaseException | None = next(self._steps, None)
        except Exception as error:
            step = error
        self._tell(step)
        return isinstance(step, Step)

    def _tell(self, step: Step | BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._given.put_nowait, step)
        except RuntimeError:
            self.closed = True  # the event loop is gone, and the listener with it

    def fail(self, error: BaseException) -> None:
        """End the stream with an error."""
        self._tell(error)

    async def __aiter__(self) -> AsyncIterator[Step]:
        try:
            while (step := await self._given.get()) is not None:
                if isinstance(step, BaseException):
                    raise step
                yield step
        finally:
            self.closed = True

    def close(self) -> None:
        """Write no more."""
        self.closed = True


class Streams:
    """Writes up to `most` texts at once in one thread; `waiting` more may wait for a place."""

    def __init__(self, most: int, waiting: int, turns: Turns | None) -> None:
        self._most = most
        self._most_waiting = waiting
        self._turns = turns
        self._active: list[Stream] = []
        self._waiting: deque[Stream] = deque()
        self._changed = threading.Condition()
        self._ended = False
        # Seconds that a text took lately: what Retry-After is computed from.
        self._seconds = 1.0
        self._thread = threading.Thread(target=self._work, name="untorch-streams", daemon=True)
        self._thread.start()

    def begin(self, steps: Callable[[], Iterator[Step]]) -> Stream:
        """Queue a text; `steps` is called in the writing thread. Raises RefusalError where too many wait."""
        stream = Stream(steps, asyncio.get_running_loop())
        with self._changed:
            if self._ended:
                raise RefusalError("unready", "the server is about to end", retry_after=1)
            if len(self._waiting) >= self._most_waiting:
                seconds = round(self._seconds * len(self._waiting) / self._most)
                raise RefusalError(
                    "overloaded",
                    f"{len(self._waiting)} texts wait to be written already",
                    retry_after=max(1, min(60, seconds)),
                )
            self._waiting.append(stream)
            self._changed.notify()
        return stream

    @property
    def running(self) -> int:
        """How many texts are being written."""
        return len(self._active)

    def close(self) -> None:
        """Finish what is being written and what waits, and stop."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._fill():
            for stream in list(self._active):
                if stream.closed:
                    self._active.remove(stream)
                    continue
                with nullcontext() if self._turns is None else self._turns.turn():
                    goes_on = stream.advance()
                if not goes_on:
                    self._active.remove(stream)
                    self._seconds += 0.2 * (time.monotonic() - stream.begun - self._seconds)

    def _fill(self) -> bool:
        """Give free places to those that wait; False when there is nothing left to do."""
        with self._changed:
            while not self._active and not self._waiting:
                if self._ended:
                    return False
                self._changed.wait()
            while self._waiting and len(self._active) < self._most:
                stream = self._waiting.popleft()
                if not stream.closed:
                    self._active.append(stream)
            return True


def written(
    pipeline: TextGenerationPipeline,
    make_ids: Callable[[], list[int]],
    settings: dict[str, Any],
    *,
    most: int,
    top_logprobs: int | None = None,
) -> Iterator[Step]:
    """The steps of one text: what `pipeline.stream` gives, with ids, and log-probabilities where they are asked for.

    `most` bounds the new tokens. Runs in the writing thread, tokenizing too. Raises InputError for what the model
    cannot read.
    """
    ids = make_ids()
    model, tokenizer = pipeline.model, pipeline.tokenizer
    # Rotary positions have no end, and a model makes no sense beyond those that it was trained with.
    limits = (model.max_sequence_length, model.config.get("max_position_embeddings"))
    limit = min((limit for limit in limits if limit is not None), default=None)
    if limit is not None and len(ids) >= limit:
        raise RefusalError(
            "invalid", f"the prompt has {len(ids)} tokens; the model takes {limit}, and its answer is among them"
        )
    room = most if limit is None else min(most, limit - len(ids))
    decoding = tokenizer.decode_stream(True)
    steps = model.stream(
        input_ids=np.array([ids]) if ids else None,
        tokenizer=tokenizer,
        **{"generation_config": pipeline.generation_config, **settings, "max_new_tokens": room},
    )
    scores = None if top_logprobs is None else _Scores(pipeline, ids, top_logprobs)
    config = pipeline.generation_config.filled_from(model.generation_config)
    ends = set(config.eos_tokens())
    last: Step | None = None
    for tokens in steps:
        if last is not None:
            yield last
        token = int(tokens[0])
        logprob, top = (None, ()) if scores is None else scores.of(token)
        last = Step(token, decoding.step(token) or "", logprob, top, token in ends, len(ids))
    if last is not None:
        rest = decoding.flush() or ""
        yield Step(last.token, last.text + rest, last.logprob, last.top, last.ends, last.prompt_tokens)


class _Scores:
    """Log-probabilities of the model itself, before any setting changes them; it reads along with its own cache."""

    def __init__(self, pipeline: TextGenerationPipeline, ids: list[int], count: int) -> None:
        self._model = pipeline.model
        self._count = count
        if not ids:
            ids = [int(pipeline.generation_config.bos_token_id or 0)]
        self._next: list[int] = ids
        self._cache: Any = None

    def of(self, token: int) -> tuple[float, tuple[tuple[int, float], ...]]:
        output = self._model(input_ids=np.array([self._next]), past_key_values=self._cache)
        self._cache, self._next = output["past_key_values"], [token]
        row = np.log(np.maximum(softmax(np.asarray(output["logits"])[0, -1].astype(np.float64)), 1e-300))
        best = np.argsort(-row, kind="stable")[: self._count]
        return float(row[token]), tuple((int(index), float(row[index])) for index in best)
