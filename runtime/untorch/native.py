"""Calls into native code that leave the interpreter free, and its end, which must not meet one half-way.

A daemon thread that comes back from C++ or Rust after the interpreter has gone aborts the process. So the end waits
for the calls that are under way, and no other begins.
"""

from __future__ import annotations

import atexit
import os
import threading


class _Calls:
    """Counts the calls that are under way; `with calls:` is one."""

    def __init__(self) -> None:
        self._reset()
        # In a forked child the calls of the parent's other threads will never come back.
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self._end)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._running = 0
        self._ended = False

    def __enter__(self) -> None:
        with self._changed:
            late = self._ended and threading.current_thread().daemon
            if not late:
                self._running += 1
        if late:
            threading.Event().wait()  # for the process to end, which it does by itself

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            if self._ended:
                self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.wait_for(lambda: not self._running)


calls = _Calls()
