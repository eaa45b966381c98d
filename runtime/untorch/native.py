"""Calls into native code from daemon threads, which the end of the interpreter waits for.

A daemon thread that returns from C++ or Rust after the interpreter is finalized aborts the process. So calls go through
`calls`: at exit the interpreter waits for those that are running, and no new one begins.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class _Calls:
    """The threads that are in a call now; a thread has one call at a time.

    There is no lock, which every call would pay for: adding to a set is atomic in the interpreter.
    """

    def __init__(self) -> None:
        self._reset()
        # In a forked child the calls of the parent's other threads will never come back.
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self._end)

    def _reset(self) -> None:
        self._main = threading.main_thread().ident
        self._running: set[int] = set()
        self._ended = False
        # Another object after every fork; comparing it is cheaper than os.getpid().
        self.process = object()

    def __call__(
        self, function: Callable[_Given, _Result], *arguments: _Given.args, **keywords: _Given.kwargs
    ) -> _Result:
        """Call `function`, which is native code; returns what it returns."""
        thread = get_ident()
        if thread == self._main:  # the interpreter ends in this thread, so never during its calls
            return function(*arguments, **keywords)
        # Added before `_ended` is read, as `_end` sets it before it reads `_running`: one of the two sees the other.
        self._running.add(thread)
        if self._ended and threading.current_thread().daemon:
            self._running.discard(thread)
            threading.Event().wait()  # until the process has ended
        try:
            return function(*arguments, **keywords)
        finally:
            self._running.discard(thread)

    def _end(self) -> None:
        self._ended = True
        while self._running:
            time.sleep(0.001)


calls = _Calls()
