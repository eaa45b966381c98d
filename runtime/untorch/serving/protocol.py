"""uvicorn's HTTP connection, with limits that it does not have: of headers, of silence, and of readers that stop."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from untorch.serving.settings import Settings

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def connection(settings: Settings) -> type[HttpToolsProtocol]:  # noqa: C901  # a class made for the settings
    """The class of connections that holds clients to the settings."""

    class Connection(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn is not there where types are checked
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            # Bytes of headers that are not complete; None while there is nothing to be read of a request.
            self._unfinished: int | None = 0
            self._reading: asyncio.TimerHandle | None = None
            self._writing: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._expect_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._reading, self._writing):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self._unfinished is None or self.transport.is_closing():
                return
            self._unfinished += len(data)
            if self._unfinished > settings.max_header_bytes:
                self._end(_TOO_LARGE)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._unfinished = 0
            if self._reading is None:
                self._expect_headers()

        def on_headers_complete(self) -> None:
            self._unfinished = None
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > settings.max_header_bytes:
                self._end(_TOO_LARGE)
                raise ValueError("the headers are too large")  # ends the parsing of what came with them
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            if not self.transport.is_closing():
                super().send_400_response(msg)

        def _expect_headers(self) -> None:
            self._reading = self.loop.call_later(settings.read_timeout, self._end, _TOO_SLOW)

        def _end(self, answer: bytes) -> None:
            # While an answer is being sent, ours would end up inside it.
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(answer)
            self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writing = self.loop.call_later(settings.write_timeout, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None

    return Connection
