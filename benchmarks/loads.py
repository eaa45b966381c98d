"""Load on an HTTP server: closed (each connection asks again when it is answered) and open (a fixed rate).

An open load measures from the moment a request was due, so that waiting counts: a server that stalls is not asked less.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# Connections of an open load; as many requests may be under way at once.
CONNECTIONS = 256


@dataclass
class Load:
    """What came of a load: seconds of each answered request, statuses, seconds of each refused one."""

    seconds: float = 0.0
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def note(self, status: int, due: float, sent: float) -> None:
        """Count one request that was due and sent at these times: answers count from when they were due.

        Refusals count from when they were sent. A generator that has all its connections under way sends late, which
        tells of the answers that it waits for and nothing of how fast the server refuses.
        """
        self.statuses[status] += 1
        now = time.perf_counter()
        if status == 200:
            self.answered.append(now - due)
        else:
            self.refused.append(now - sent)

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.answered) / self.seconds

    def summary(self) -> dict[str, object]:
        """Rate, percentiles in milliseconds, statuses."""
        told = {f"p{place}_ms": percentile(self.answered, place) for place in (50, 99)}
        refused = {"refused_p99_ms": percentile(self.refused, 99)} if self.refused else {}
        statuses = {str(status): count for status, count in sorted(self.statuses.items())}
        return {"rate": round(self.rate, 1), **told, **refused, "statuses": statuses}


def percentile(seconds: list[float], place: float) -> float | None:
    """A percentile in milliseconds."""
    ordered = sorted(seconds)
    return round(1e3 * ordered[min(len(ordered) - 1, int(len(ordered) * place / 100))], 3) if ordered else None


class Connection:
    """One connection that is kept open; asks one request after another."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        # The last answer's body.
        self.body = b""

    async def ask(self, request: bytes) -> int:
        """Send a request and read its answer; the status. 0 where the connection broke."""
        try:
            reader, writer = await self._opened()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)
            self.body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0
        if b"connection: close" in lines:
            self.close()
        return int(head[9:12])

    async def leave(self, request: bytes) -> None:
        """Send a request and go before its answer."""
        try:
            _, writer = await self._opened()
            writer.write(request)
            await writer.drain()
        except OSError:
            pass
        self.close()

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
        return self._streams

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Plain:
    """One blocking connection: the least that a client can add to what it measures."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> int:
        """Send a request and read its answer; the status."""
        self._socket.sendall(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._socket.recv(1 << 16)
        lines = data[:end].lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        while len(data) < end + 4 + length:
            data += self._socket.recv(1 << 16)
        return int(data[9:12])


def post(path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def closed(url: str, requests: list[bytes], connections: int, seconds: float) -> Load:
    """`connections` that each ask again when they are answered."""
    load = Load()
    end = time.perf_counter() + seconds

    async def caller(offset: int) -> None:
        connection, number = Connection(url), offset
        while time.perf_counter() < end:
            start = time.perf_counter()
            status = await connection.ask(requests[number % len(requests)])
            load.note(status, start, start)
            number += connections
        connection.close()

    start = time.perf_counter()
    await asyncio.gather(*map(caller, range(connections)))
    load.seconds = time.perf_counter() - start
    return load


async def opened(url: str, requests: list[bytes], rate: float, seconds: float) -> Load:
    """`rate` requests a second, due at fixed times whatever became of those before."""
    load = Load()
    free = [Connection(url) for _ in range(CONNECTIONS)]
    places = asyncio.Semaphore(CONNECTIONS)
    start = time.perf_counter()

    async def one(number: int, due: float) -> None:
        async with places:
            connection, sent = free.pop(), time.perf_counter()
            status = await connection.ask(requests[number % len(requests)])
            load.note(status, due, sent)
            free.append(connection)

    running = set()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        task = asyncio.ensure_future(one(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    load.seconds = time.perf_counter() - start
    for connection in free:
        connection.close()
    return load
