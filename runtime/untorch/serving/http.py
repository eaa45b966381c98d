"""Requests and answers of HTTP over ASGI, with the limits of what is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from untorch.serving.errors import RefusalError
from untorch.serving.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
EVENTS = b"text/event-stream"

# Numbers of an answer that are written as JSON in one go; with more, others get their turn in between.
_NUMBERS_AT_ONCE = 100_000

# The least bytes a second that a body must come with, once `read_timeout` is over.
_SLOWEST = 10_000

# Seconds after which a request that is still running is watched for its client's leaving. Nearly all are done by then.
_UNWATCHED = 0.05


class Request:
    """One request: its headers, its body as JSON, its deadline."""

    def __init__(self, scope: Scope, receive: Receive, settings: Settings, path: str) -> None:
        self.method: str = scope["method"]
        self.path = path
        self.headers = dict(scope["headers"])
        self.settings = settings
        # The model that the path names (`/models/{name}/…`), and other parts of it.
        self.model: str | None = None
        self.parts: dict[str, str] = {}
        # What the access log and the metrics tell of it.
        self.texts = 0
        self.tokens = 0
        self.left: str | None = None
        self._receive = receive
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def body(self) -> bytes:
        """The whole body. Raises RefusalError where it is too large, or too slow to come."""
        most = self.settings.max_body_bytes
        length = self.headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > most:
            raise _too_large(most)
        start = asyncio.get_running_loop().time()
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive_by(start + self.settings.read_timeout + size / _SLOWEST)
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > most:
                raise _too_large(most)
            more = message.get("more_body", False)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _receive_by(self, end: float) -> Message:
        try:
            async with asyncio.timeout_at(end):
                message = await self._receive()
        except TimeoutError:
            raise RefusalError("slow", "the body came too slowly") from None
        if message["type"] == "http.disconnect":
            self.left = "gone"
            raise asyncio.CancelledError
        return message

    async def json(self) -> Any:
        """The body as JSON. Raises RefusalError where it is none, or too deeply nested."""
        body = await self.body()
        if not body:
            raise RefusalError("malformed", "the body is empty; it is JSON")
        return parse(body, self.settings.max_json_depth)

    def watch(self, seconds: float) -> None:
        """Cancel the task that runs now when the client leaves, or after so many seconds."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        end = loop.time() + seconds

        def begin() -> None:
            self._watcher = loop.create_task(self._wait_for_the_end(task, end))

        self._timer = loop.call_later(min(_UNWATCHED, seconds), begin)

    async def _wait_for_the_end(self, task: asyncio.Task[Any], end: float) -> None:
        try:
            async with asyncio.timeout_at(end):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
            self.left = "gone"
        except TimeoutError:
            self.left = "late"
        task.cancel()

    def unwatch(self) -> None:
        """The request is done: nothing cancels it any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()


def _too_large(most: int) -> RefusalError:
    return RefusalError("large", f"the body is larger than {most} bytes, the most this server takes (--max-body-bytes)")


def parse(body: bytes, max_depth: int) -> Any:
    """JSON that is valid, in UTF-8 and nested no deeper than `max_depth`."""
    try:
        value = orjson.loads(body)
    except ValueError as error:
        raise RefusalError("malformed", f"the body is not JSON: {str(error).split(': line')[0]}") from None
    # As long as there are few brackets, they cannot be deep.
    if body.count(b"[") + body.count(b"{") > max_depth and _deeper_than(value, max_depth):
        raise RefusalError("malformed", f"the body is nested more than {max_depth} levels deep")
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


@dataclass(slots=True)
class Answer:
    """An answer: `body` as bytes, or a stream of pieces."""

    body: bytes | AsyncIterator[bytes]
    status: int = 200
    kind: bytes = JSON
    headers: Headers = field(default_factory=list)

    async def send(self, send: Send) -> None:
        """Send it to the client."""
        headers = [(b"content-type", self.kind), *self.headers]
        if isinstance(self.body, bytes):
            headers.append((b"content-length", b"%d" % len(self.body)))
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            await send({"type": "http.response.body", "body": self.body})
            return
        headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        async for piece in self.body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def dumps(value: Any) -> bytes:
    """JSON of Python's values and numpy's."""
    data: bytes = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return data


def answer(value: Any, status: int = 200, headers: Headers | None = None) -> Answer:
    """An answer in JSON."""
    return Answer(dumps(value), status, headers=headers or [])


async def dump_rows(rows: list[Any]) -> bytes:
    """JSON of a list of arrays, between whose parts other requests get their turn."""
    numbers = sum(getattr(row, "size", 1) for row in rows)
    if numbers <= _NUMBERS_AT_ONCE:
        return dumps(rows)
    at_once = max(1, len(rows) * _NUMBERS_AT_ONCE // numbers)
    pieces = []
    for start in range(0, len(rows), at_once):
        pieces.append(dumps(rows[start : start + at_once])[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(pieces) + b"]"


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dumps(value) + b"\n\n"
