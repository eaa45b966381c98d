"""Work that goes on beside the caller's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class BackgroundTask(Generic[Result]):
    """Work that runs in a thread of its own from `begin` on, and in the caller's where nobody began it.

    It gains something where it, or what goes on meanwhile, leaves the interpreter free. The interpreter waits for its
    end.
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Begin, if it has not begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="untorch-aside")
            self._thread.start()

    def result(self) -> Result:
        """Wait for what the work returns; raises what it raised."""
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
