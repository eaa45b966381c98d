"""Calls into native code that leave the interpreter free, and its end, which must not meet one half-way.

A daemon thread that comes back from C++ or Rust after the interpreter has gone aborts the process. So the end waits
for the calls that are under way, and no other begins.
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
    """The calls that are under way, by their threads. A thread has one at a time.

    There is no lock, which every call would pay for: adding to a set is one step of the interpreter's.
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
        # Another object in every process; comparing it costs a call less than asking for the process's number.
        self.process = object()

    def __call__(
        self, function: Callable[_Given, _Result], *arguments: _Given.args, **keywords: _Given.kwargs
    ) -> _Result:
        """Call `function`, which is native code."""
        thread = get_ident()
        if thread == self._main:  # which does not end before its calls do
            return function(*arguments, **keywords)
        # Before it looks whether the end has come: the end comes before it looks who is running.
        self._running.add(thread)
        if self._ended and threading.current_thread().daemon:
            self._running.discard(thread)
            threading.Event().wait()  # for the process to end, which it does by itself
        try:
            return function(*arguments, **keywords)
        finally:
            self._running.discard(thread)

    def _end(self) -> None:
        self._ended = True
        while self._running:
            time.sleep(0.001)


calls = _Calls()
