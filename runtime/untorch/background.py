"""A task that runs in a thread of its own while the caller does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class BackgroundTask(Generic[Result]):
    """A function that runs in a thread from `begin` on; or in the caller's, by `result`, if nobody began it.

    That saves time only where the task or the caller leaves the interpreter free (native code, reading files). The
    thread is no daemon: the interpreter's end waits for it.
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Start the thread, if it was not started before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="untorch-background")
            self._thread.start()

    def result(self) -> Result:
        """Wait for the task; returns what it returned, raises what it raised."""
        if self._thread is None:
            return self._work()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
