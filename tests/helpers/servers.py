"""A server in a process of its own, and the requests that tests send it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Server:
    """`untorch serve` with some bundles on a free port of the loopback; a context manager."""

    def __init__(self, bundles: Mapping[str, Path] | None = None, *options: str, environment=None) -> None:
        words = [f"{name}={path}" for name, path in (bundles or {}).items()]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "untorch", "serve", *words, "--port", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready.wait(120)
        if self.process.poll() is not None or not self._ready.is_set():
            self.process.kill()
            raise AssertionError("the server did not start:\n" + "\n".join(self.lines))

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if (found := re.search(r"at (http://\S+:(\d+))$", line)) is not None:
                self.url, self.port = found[1], int(found[2])
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the server, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(60)
            self._reader.join(10)
            self.process.stderr.close()
            return code
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server does not end:\n" + "\n".join(self.lines)) from None

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout=60):
        """(status, headers, body as bytes)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        if isinstance(data, str):
            data = data.encode()
        connection.request(method, path, data, dict(headers or {}))
        response = connection.getresponse()
        answer = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        connection.close()
        return answer

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """The answer's JSON; a request that is refused fails the test."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, data = self.request("POST", path, body, names)
        assert status == 200, (status, data)
        return json.loads(data)

    def refused(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a request that must be refused."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, data = self.request("POST", path, body, names)
        assert status >= 400, data
        return status, json.loads(data)

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, data = self.request("GET", path, headers=names)
        return status, data

    def events(self, path: str, body: Any) -> list[Any]:
        """The server-sent events of an answer, `[DONE]` as it is."""
        status, headers, data = self.request("POST", path, body)
        assert status == 200, (status, data)
        assert headers["content-type"] == "text/event-stream"
        found = [line.removeprefix("data: ") for line in data.decode().split("\n\n") if line]
        return [event if event == "[DONE]" else json.loads(event) for event in found]

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, data: bytes) -> bytes:
        """What comes back for some bytes until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            pieces = []
            try:
                while piece := connection.recv(65536):
                    pieces.append(piece)
            except ConnectionResetError:
                pass
            return b"".join(pieces)

    def metric(self, name: str) -> float:
        """A line of the metrics, by its name and labels."""
        _, text = self.get("/metrics")
        for line in text.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split(" ")[1])
        raise AssertionError(f"there is no metric {name}")
