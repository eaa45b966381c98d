"""Many callers, one model: texts that arrive one at a time share batches.

While the model is busy the next texts gather, so that batches grow with the load and a lone caller never waits for
company unless `max_wait_ms` says so. It does not know what the pipeline does with the texts.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from untorch.errors import InputError, UntorchError
from untorch.pipelines.base import Pipeline


class BatcherClosedError(UntorchError):
    """The batcher was closed before it could answer."""


@dataclass(eq=False)
class _Request:
    item: Any
    tokens: int
    deadline: float | None
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """Answers one text at a time for any number of threads and asyncio tasks, in shared batches.

    `max_tokens` bounds one batch, `max_queue` the texts that wait: beyond it callers wait for room (back-pressure).
    `max_wait_ms` is how long a batch that is not full waits for more. Further keywords are arguments of every call of
    the pipeline.

        batcher = Batcher(pipeline("sentiment-analysis"))
        batcher("I love it", timeout=1.0)               # from threads
        await batcher.answer("I love it", timeout=1.0)  # from asyncio tasks

    A text that cannot be answered fails alone. A caller that gives up (timeout, cancelled task) takes its text out of
    the queue. Closing answers what is queued first; it is also a context manager.
    """

    def __init__(
        self,
        pipeline: Pipeline[Any],
        *,
        max_wait_ms: float = 0.0,
        max_tokens: int = 2048,
        max_queue: int = 1024,
        **arguments: Any,
    ) -> None:
        if max_wait_ms < 0 or max_tokens < 1 or max_queue < 1:
            raise InputError("max_wait_ms must be 0 or more, max_tokens and max_queue 1 or more")
        self._pipeline = pipeline
        self._max_wait = max_wait_ms / 1000
        self._max_tokens = max_tokens
        self._max_queue = max_queue
        self._arguments = arguments
        self._queue: deque[_Request] = deque()
        self._queued_tokens = 0
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        # Tasks cannot wait on a thread's condition; each leaves a callback that is run when there is room.
        self._waiting_tasks: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._closed = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name="untorch-batcher", daemon=True)
        self._thread.start()
        atexit.register(self._abandon)

    def __call__(self, item: Any, *, timeout: float | None = None) -> Any:
        """Answer one input; blocks. `timeout` in seconds covers the wait for room, the queue and the model.

        Raises TimeoutError, BatcherClosedError, or what the pipeline raises for this input.
        """
        request = self._request(item, timeout)
        with self._lock:
            while len(self._queue) >= self._max_queue and not self._closed:
                if not self._room.wait(_remaining(request.deadline)):
                    raise TimeoutError(f"the queue of {self._max_queue} texts stayed full for {timeout} s")
            self._enqueue(request)
        try:
            return request.future.result(_remaining(request.deadline))
        except TimeoutError:
            self._drop(request)
            raise TimeoutError(f"no answer within {timeout} s") from None

    async def answer(self, item: Any, *, timeout: float | None = None) -> Any:
        """The same for an asyncio task: waits without blocking the event loop, and may be cancelled."""
        request = self._request(item, timeout)
        try:
            async with asyncio.timeout(timeout):
                await self._enqueue_when_there_is_room(request)
                return await asyncio.wrap_future(request.future)
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout} s") from None
        finally:
            if not request.future.done() or request.future.cancelled():
                self._drop(request)

    def replace(self, pipeline: Pipeline[Any]) -> None:
        """Answer with another pipeline from the next batch on, such as one of a bundle that took the old one's place.

        Texts that wait are not lost. Loading comes first, so one that fails leaves the old pipeline answering:

            batcher.replace(pipeline("sentiment-analysis", folder))
        """
        self._pipeline = pipeline

    def close(self) -> None:
        """Take no more texts, answer those that are queued, and stop."""
        with self._lock:
            self._closed = True
            self._arrived.notify_all()
            self._room.notify_all()
            self._wake_tasks(len(self._waiting_tasks))
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self._abandon)

    def _abandon(self) -> None:
        """At the interpreter's end: let the running batch finish and take no other.

        A thread that is inside native code when the interpreter goes would abort the process.
        """
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._arrived.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, item: Any, timeout: float | None) -> _Request:
        if os.getpid() != self._process:
            raise UntorchError(
                "this batcher was made before os.fork(), and its thread did not come along. "
                "Load the pipeline and make a batcher in the child process"
            )
        # Counted in the caller's thread, where bad input is refused before it can touch anyone else's batch.
        tokens = self._pipeline.count_tokens(item)
        return _Request(item, tokens, None if timeout is None else time.monotonic() + timeout)

    def _enqueue(self, request: _Request) -> None:
        """Add a request; the lock is held."""
        if self._closed:
            raise BatcherClosedError("this batcher is closed")
        self._queue.append(request)
        self._queued_tokens += request.tokens
        self._arrived.notify()

    async def _enqueue_when_there_is_room(self, request: _Request) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if len(self._queue) < self._max_queue or self._closed:
                    self._enqueue(request)
                    return
                room: asyncio.Future[None] = loop.create_future()
                self._waiting_tasks.append((loop, room))
            try:
                await room
            except asyncio.CancelledError:
                # It may have been this task that was told of the room, so another must be.
                with self._lock:
                    self._wake_tasks(1)
                raise

    def _wake_tasks(self, count: int) -> None:
        """Tell up to `count` waiting tasks that there may be room; the lock is held."""
        while count > 0 and self._waiting_tasks:
            loop, room = self._waiting_tasks.popleft()
            if room.cancelled() or loop.is_closed():
                continue
            loop.call_soon_threadsafe(_resolve, room)
            count -= 1

    def _drop(self, request: _Request) -> None:
        """Forget a request whose caller has gone."""
        request.future.cancel()
        with self._lock:
            try:
                self._queue.remove(request)
            except ValueError:
                return  # taken into a batch already: its answer goes nowhere
            self._queued_tokens -= request.tokens
            self._room.notify()
            self._wake_tasks(1)

    def _work(self) -> None:
        while batch := self._next_batch():
            live = [request for request in batch if request.future.set_running_or_notify_cancel()]
            if live:
                self._answer(live)

    def _next_batch(self) -> list[_Request]:
        """Wait for texts and take as many as fit; empty when closed and drained."""
        with self._lock:
            while not self._queue:
                if self._closed:
                    return []
                self._arrived.wait()
            if self._max_wait:
                end = time.monotonic() + self._max_wait
                while self._queued_tokens < self._max_tokens and not self._closed:
                    if not self._arrived.wait(max(0.0, end - time.monotonic())):
                        break
            batch: list[_Request] = []
            tokens = 0
            while self._queue and (not batch or tokens + self._queue[0].tokens <= self._max_tokens):
                request = self._queue.popleft()
                tokens += request.tokens
                batch.append(request)
            self._queued_tokens -= tokens
            self._room.notify(len(batch))
            self._wake_tasks(len(batch))
            return batch

    def _answer(self, batch: list[_Request]) -> None:
        try:
            answers = self._pipeline.each([request.item for request in batch], **self._arguments)
            if len(answers) != len(batch):
                raise UntorchError(f"the pipeline gave {len(answers)} answers for {len(batch)} texts")
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:
                # One of them is at fault; each gets its own answer or its own error.
                for request in batch:
                    self._answer([request])
        else:
            for request, answer in zip(batch, answers, strict=True):
                request.future.set_result(answer)


def _resolve(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
