"""The run queue of this process's GPUs: one run at a time, from as few threads as possible.

ONNX Runtime makes handles for every thread that runs on a GPU and, for sessions that capture CUDA graphs, keeps them as
long as the session; a captured graph belongs to the thread that captured it. So while a single thread uses the GPU, it
runs its work itself, which costs nothing. When a second thread comes, one thread of the queue's own runs everything
from then on. A thread that has others work for it, and waits for them, runs the work that they ask for meanwhile.
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
    """Runs functions one after the other, in the order in which they were handed in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lone: threading.Thread | None = None
        self._serving = False
        self._own: threading.Thread | None = None

    def __call__(self, work: Callable[[], Result]) -> Result:
        """Run `work` when it is its turn; returns what it returns, raises what it raises."""
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
        """Gives a function that waits for a future; meanwhile a thread that is alone runs what others ask for."""
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
        """Whether this is the only thread that ever used the queue. The caller holds the lock."""
        self._lone = self._lone or threading.current_thread()
        return self._own is None and self._lone is threading.current_thread()

    def _start(self) -> None:
        def run() -> None:
            while True:
                self._jobs.get()()

        # A daemon: the interpreter's end waits for the calls that wait for this thread instead (`native.py`).
        self._own = threading.Thread(target=run, name="untorch-gpu", daemon=True)
        self._own.start()

    def _asked(self, work: Callable[[], Result]) -> Future[Result]:
        # Imported here: a process with a single thread should not pay for it.
        from concurrent.futures import Future

        future: Future[Result] = Future()

        def do() -> None:
            try:
                result = work()
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # KeyboardInterrupt and the like end the thread that runs it, too
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


# Capturing and allocating exclude each other, on whichever GPU and in whichever session or thread: CUDA breaks off a
# capture if anything is allocated meanwhile.
allocating = threading.Lock()

# One for all GPUs of the process and all sessions on them.
run_queue = RunQueue()
