"""The way of all runs to the cards of this process: one at a time, from as few threads as can be.

ONNX Runtime makes handles for every thread that runs on a card and keeps them, where graphs are captured, as long as
the session; captured graphs belong to the thread that captured them. So a lone thread runs by itself, which costs
nothing, and once a second one comes, one thread of the lane's own runs for all. While a lone thread waits for others
that work for it, it runs what they ask for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")


class RunQueue:
    """Runs what it is called with, after what came before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lone: threading.Thread | None = None
        self._serving = False
        self._own: threading.Thread | None = None

    def __call__(self, work: Callable[[], Result]) -> Result:
        """What `work` gives; raises what it raises."""
        if self._own is None:
            with self._lock:
                if self._is_lone():
                    return work()
                if self._own is None and not self._serving:
                    self._start()
                asked = self._asked(work)
        else:
            asked = self._asked(work)
        return asked.result()

    @contextmanager
    def serving(self) -> Iterator[Callable[[Future[Result]], Result]]:
        """Gives what waits for a future; a lone thread runs meanwhile what other threads ask for."""
        with self._lock:
            self._serving = serving = self._is_lone()
        try:
            yield self._served if serving else lambda future: future.result()
        finally:
            if serving:
                with self._lock:
                    self._serving = False
                    while not self._jobs.empty():  # nobody else will do them
                        self._jobs.get()()

    def _is_lone(self) -> bool:
        """Whether no thread but this one has ever come; the lock is held."""
        self._lone = self._lone or threading.current_thread()
        return self._own is None and self._lone is threading.current_thread()

    def _start(self) -> None:
        def run() -> None:
            while True:
                self._jobs.get()()

        # The interpreter's end does not wait for it, but for the calls that wait for it (`native.py`).
        self._own = threading.Thread(target=run, name="untorch-card", daemon=True)
        self._own.start()

    def _asked(self, work: Callable[[], Result]) -> Future[Result]:
        # Imported here: one thread alone should not pay for it.
        from concurrent.futures import Future

        future: Future[Result] = Future()

        def do() -> None:
            try:
                result = work()
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # meant for the thread that runs it, too
                future.set_exception(error)
                raise
            else:
                future.set_result(result)

        self._jobs.put(do)
        return future

    def _served(self, future: Future[Any]) -> Any:
        future.add_done_callback(lambda _: self._jobs.put(lambda: None))
        while not future.done():
            self._jobs.get()()
        return future.result()


# Capturing and allocating exclude each other, whichever card, session or thread: CUDA breaks off a capture that
# anything is allocated beside.
allocating = threading.Lock()

# Every card of a process shares it, and so do a model's two sessions on one.
run_queue = RunQueue()
