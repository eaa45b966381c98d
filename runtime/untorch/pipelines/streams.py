"""Reading a stream: what has arrived is answered, and a source that waits holds nothing back."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


def arrived(source: Iterator[Item], most: int) -> Iterator[list[Item]]:
    """Lists of what a source has given since the last list, of at most `most` items.

    The source is read ahead, by at most `most` items, in a thread of its own: only so can what it gave be answered
    while it waits for more. It is read by that one thread alone, in a copy of the caller's context
    (`contextvars`). An error of the source comes after the items that came before it. Before this waits for the
    source it gives an empty list, once: the time to finish whatever was held back for company. When the caller leaves,
    the source is read no further and not closed; a thread that waits inside the source ends after it.
    """
    reader = _Reader(source, most)
    try:
        while (items := reader.take()) is not None:
            yield items
    finally:
        reader.leave()


class _Reader(Generic[Item]):
    def __init__(self, source: Iterator[Item], most: int) -> None:
        self._source = source
        self._most = most
        self._items: list[Item] = []
        self._error: BaseException | None = None
        self._ended = False
        self._left = False
        # Whether the caller knows that there is nothing at the moment.
        self._told = True
        self._changed = threading.Condition()
        # A daemon: a source that never gives another item must not keep the interpreter from ending.
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._read,), name="untorch-reader", daemon=True
        )
        thread.start()

    def take(self) -> list[Item] | None:
        """What has arrived; None at the end."""
        with self._changed:
            if not (self._items or self._ended or self._told):
                self._told = True
                return []
            while not (self._items or self._ended):
                self._changed.wait()
            self._told = False
            if self._items:
                items, self._items = self._items, []
                self._changed.notify()
                return items
            if self._error is not None:
                raise self._error
            return None

    def leave(self) -> None:
        """Read no further."""
        with self._changed:
            self._left = True
            self._changed.notify()

    def _read(self) -> None:
        try:
            while self._has_room():
                try:
                    item = next(self._source)
                except StopIteration:
                    break
                with self._changed:
                    self._items.append(item)
                    if len(self._items) == 1:
                        self._changed.notify()
        except BaseException as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _has_room(self) -> bool:
        """Wait until another item may be read; whether the caller still wants one."""
        with self._changed:
            while len(self._items) >= self._most and not self._left:
                self._changed.wait()
            return not self._left
