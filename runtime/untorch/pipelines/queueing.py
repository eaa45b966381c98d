"""Which waiting texts run together next: those that are alike, in the order of their turns. It knows no threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

# Seconds that a text lets later ones pass it, for each of its tokens. A short text that arrives behind a long document
# goes first, and the document waits for those of the next half second at most.
PATIENCE = 1e-3

# Texts of up to this many tokens share batches; longer ones share them with those of up to 4, 16, … times as many. The
# answers of a batch come together, so that a short text is not to wait for a document in it.
SHORT = 64


@dataclass(eq=False, slots=True)
class Request:
    """Texts of one caller that are answered together: `tokens` in all, `longest` in the longest."""

    items: list[Any]
    tokens: int
    longest: int
    arguments: Mapping[str, Any]
    deadline: float | None = None
    future: Future[list[Any]] = field(default_factory=Future)
    turn: float = 0.0
    lane: tuple[str, int] = ("", 0)


class RequestQueue:
    """Requests that wait, in lanes of equal arguments and similar lengths. A batch is taken from one lane.

    The lane whose first request has the earliest turn goes next. A turn is the time of arrival plus PATIENCE for each
    token of the longest text, so that nothing waits for ever.
    """

    def __init__(self) -> None:
        self.texts = 0
        self.tokens = 0
        self._lanes: dict[tuple[str, int], deque[Request]] = {}

    def __len__(self) -> int:
        return self.texts

    def put(self, request: Request) -> None:
        """Add a request at the end of its lane."""
        request.turn = time.monotonic() + PATIENCE * request.longest
        arguments = repr(sorted(request.arguments.items())) if request.arguments else ""
        request.lane = (arguments, _band(request.longest))
        self._lanes.setdefault(request.lane, deque()).append(request)
        self.texts += len(request.items)
        self.tokens += request.tokens

    def remove(self, request: Request) -> bool:
        """Take a request out; whether it was there."""
        lane = self._lanes.get(request.lane, ())
        if request not in lane:
            return False
        assert isinstance(lane, deque)
        lane.remove(request)
        self._left(request)
        return True

    def take(self, max_tokens: int) -> list[Request]:
        """The next batch: at least one request, and as many more of its lane as `max_tokens` allows."""
        lane = min(self._lanes.values(), key=lambda lane: lane[0].turn)
        batch: list[Request] = []
        tokens = 0
        while lane and (not batch or tokens + lane[0].tokens <= max_tokens):
            request = lane.popleft()
            tokens += request.tokens
            batch.append(request)
            self._left(request)
        return batch

    def clear(self) -> None:
        """Forget everything that waits."""
        self._lanes.clear()
        self.texts = self.tokens = 0

    def _left(self, request: Request) -> None:
        self.texts -= len(request.items)
        self.tokens -= request.tokens
        if not self._lanes[request.lane]:
            del self._lanes[request.lane]


def _band(tokens: int) -> int:
    """0 for up to SHORT tokens, 1 for up to 4 times as many, and so on."""
    return max(0, (max(tokens, 1) - 1) // SHORT).bit_length() + 1 >> 1
