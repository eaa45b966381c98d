"""The way of all runs to the cards of this process: one at a time, from as few threads as can be.

ONNX Runtime makes handles for every thread that runs on a card and keeps them, where graphs are captured, as long as
the session; captured graphs belong to the thread that captured them. So a lone thread runs by itself, which costs
nothing, and once a second one comes, one thread of the lane's own runs for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Result = TypeVar("Result")


class Lane:
    """Runs what it is called with, after what came before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lone: threading.Thread | None = None
        self._own: ThreadPoolExecutor | None = None

    def __call__(self, work: Callable[[], Result]) -> Result:
        """What `work` gives; raises what it raises."""
        if self._own is None:
            with self._lock:
                thread = threading.current_thread()
                self._lone = self._lone or thread
                if self._own is None and self._lone is thread:
                    return work()
                if self._own is None:
                    # Imported here: one thread alone should not pay for it.
                    from concurrent.futures import ThreadPoolExecutor

                    self._own = ThreadPoolExecutor(1, "untorch-card")
        return self._own.submit(work).result()


# Capturing and allocating exclude each other, whichever card, session or thread: CUDA breaks off a capture that
# anything is allocated beside.
allocating = threading.Lock()

# Every card of a process shares it, and so do a model's two sessions on one.
lane = Lane()
