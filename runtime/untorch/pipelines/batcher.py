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
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol, Self

from untorch.errors import InputError, UntorchError
from untorch.pipelines.queueing import Request, RequestQueue


class BatcherClosedError(UntorchError):
    """The batcher was closed before it could answer."""


class QueueFullError(UntorchError):
    """So many texts or tokens wait that no more are taken."""


class Answerer(Protocol):
    """What a batcher asks of a pipeline."""

    def each(self, items: Sequence[Any], **arguments: Any) -> list[Any]:
        """Answer some inputs, one answer for each and in order.

        The argument `alone` is True for inputs of callers that gave one each: an answer then has the form that a lone
        input's has.
        """
        ...

    def count_tokens(self, item: Any) -> int:
        """How many tokens one input has, exactly or about."""
        ...


class Batcher:
    """Answers one text at a time for any number of threads and asyncio tasks, in shared batches.

    `max_tokens` bounds one batch, `max_queue` the texts that wait, and `max_queue_tokens` their tokens: beyond it
    callers wait for room (back-pressure), and `submit` refuses. `max_wait_ms` is how long a batch that is not full
    waits for more. Further keywords are arguments of every call of the pipeline; those of a call come on top, and
    texts with equal arguments and of similar lengths share batches. A short text passes long ones that wait.

        batcher = Batcher(pipeline("sentiment-analysis"))
        batcher("I love it", timeout=1.0)               # from threads
        await batcher.answer("I love it", timeout=1.0)  # from asyncio tasks

    A text that cannot be answered fails alone. A caller that gives up (timeout, cancelled task) takes its text out of
    the queue. Closing answers what is queued first; it is also a context manager.
    """

    def __init__(
        self,
        pipeline: Answerer,
        *,
        max_wait_ms: float = 0.0,
        max_tokens: int = 2048,
        max_queue: int = 1024,
        max_queue_tokens: int | None = None,
        **arguments: Any,
    ) -> None:
        if max_wait_ms < 0 or max_tokens < 1 or max_queue < 1:
            raise InputError("max_wait_ms must be 0 or more, max_tokens and max_queue 1 or more")
        self._pipeline = pipeline
        self._max_wait = max_wait_ms / 1000
        self._max_tokens = max_tokens
        self._max_queue = max_queue
        self._max_queue_tokens = max_queue_tokens
        self._arguments = arguments
        self._queue = RequestQueue()
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

    def __call__(self, item: Any, *, timeout: float | None = None, **arguments: Any) -> Any:
        """Answer one input, in the form of `pipeline(item)`; blocks.

        `timeout` in seconds covers the wait for room, the queue and the model.
        Raises TimeoutError, BatcherClosedError, or what the pipeline raises for this input.
        """
        request = self._request([item], timeout, {**arguments, "alone": True})
        with self._lock:
            while self._full() and not self._closed:
                if not self._room.wait(_remaining(request.deadline)):
                    raise TimeoutError(f"the queue of {self._max_queue} texts stayed full for {timeout} s")
            self._enqueue(request)
        try:
            return request.future.result(_remaining(request.deadline))[0]
        except TimeoutError:
            self._drop(request)
            raise TimeoutError(f"no answer within {timeout} s") from None

    async def answer(self, item: Any, *, timeout: float | None = None, **arguments: Any) -> Any:
        """The same for an asyncio task: waits without blocking the event loop, and may be cancelled."""
        request = self._request([item], timeout, {**arguments, "alone": True})
        try:
            async with asyncio.timeout(timeout):
                await self._enqueue_when_there_is_room(request)
                return (await asyncio.wrap_future(request.future))[0]
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout} s") from None
        finally:
            if not request.future.done() or request.future.cancelled():
                self._drop(request)

    def submit(self, items: Sequence[Any], *, bounded: bool = True, **arguments: Any) -> Future[list[Any]]:
        """A future of the answers to several inputs, which run in one batch; neither blocks nor waits.

        Each answer has the form that a list's answers have.

        A future that is cancelled takes its inputs out of the queue. Raises QueueFullError where the queue is full,
        unless the caller is not `bounded` by it, and BatcherClosedError.
        """
        request = self._request(list(items), None, arguments)
        with self._lock:
            if bounded and self._full(request):
                raise QueueFullError(f"{self._queue.texts} texts of {self._queue.tokens} tokens wait already")
            self._enqueue(request)
        request.future.add_done_callback(lambda future: self._drop(request) if future.cancelled() else None)
        return request.future

    @property
    def queued(self) -> tuple[int, int]:
        """How many texts wait, and their tokens."""
        return self._queue.texts, self._queue.tokens

    def replace(self, pipeline: Answerer) -> None:
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

    def _request(self, items: list[Any], timeout: float | None, arguments: dict[str, Any]) -> Request:
        if os.getpid() != self._process:
            raise UntorchError(
                "this batcher was made before os.fork(), and its thread did not come along. "
                "Load the pipeline and make a batcher in the child process"
            )
        # Counted in the caller's thread, where bad input is refused before it can touch anyone else's batch.
        counts = [self._pipeline.count_tokens(item) for item in items]
        deadline = None if timeout is None else time.monotonic() + timeout
        return Request(items, sum(counts), max(counts, default=0), arguments, deadline)

    def _full(self, request: Request | None = None) -> bool:
        """Whether there is no room; the lock is held. What is larger than the queue is taken by an empty one."""
        queue = self._queue
        texts, tokens = (1, 0) if request is None else (len(request.items), request.tokens)
        if not queue.texts:
            return False
        most = self._max_queue_tokens
        return queue.texts + texts > self._max_queue or (most is not None and queue.tokens + tokens > most)

    def _enqueue(self, request: Request) -> None:
        """Add a request; the lock is held."""
        if self._closed:
            raise BatcherClosedError("this batcher is closed")
        self._queue.put(request)
        self._arrived.notify()

    async def _enqueue_when_there_is_room(self, request: Request) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if not self._full() or self._closed:
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

    def _drop(self, request: Request) -> None:
        """Forget a request whose caller has gone. In a batch already, its answer goes nowhere."""
        request.future.cancel()
        with self._lock:
            if not self._queue.remove(request):
                return
            self._room.notify()
            self._wake_tasks(1)

    def _work(self) -> None:
        while batch := self._next_batch():
            live = [request for request in batch if request.future.set_running_or_notify_cancel()]
            if live:
                self._answer(live)

    def _next_batch(self) -> list[Request]:
        """Wait for texts and take as many as fit; empty when closed and drained."""
        with self._lock:
            while True:
                while not self._queue.texts:
                    if self._closed:
                        return []
                    self._arrived.wait()
                self._wait_for_company()
                if self._queue.texts:  # their callers may have given up meanwhile
                    break
            batch = self._queue.take(self._max_tokens)
            self._room.notify(len(batch))
            self._wake_tasks(len(batch))
            return batch

    def _wait_for_company(self) -> None:
        """Let a batch that is not full gather more, for `max_wait_ms`; the lock is held."""
        if not self._max_wait:
            return
        end = time.monotonic() + self._max_wait
        while self._queue.tokens < self._max_tokens and not self._closed:
            if not self._arrived.wait(max(0.0, end - time.monotonic())):
                break

    def _answer(self, batch: list[Request]) -> None:
        items = [item for request in batch for item in request.items]
        try:
            answers = self._pipeline.each(items, **{**self._arguments, **batch[0].arguments})
            if len(answers) != len(items):
                raise UntorchError(f"the pipeline gave {len(answers)} answers for {len(items)} texts")
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:
                # One of them is at fault; each gets its own answer or its own error.
                for request in batch:
                    self._answer([request])
        else:
            start = 0
            for request in batch:
                end = start + len(request.items)
                request.future.set_result(answers[start:end])
                start = end


def _resolve(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
