"""Several processes that answer on one socket, and the one that starts them, and again when one dies."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace

from untorch.ort.devices import usable_cores
from untorch.serving import metrics, server
from untorch.serving.operations import SUPERVISOR
from untorch.serving.saying import say
from untorch.serving.settings import ModelSource, Settings

_REPLICA = "UNTORCH_SERVE_REPLICA"
_HANDED = "UNTORCH_SERVE_HANDED"

# A replica that lives for less than so many seconds has failed to start; after so many failures in a row all end.
_STARTED = 5.0
_FAILURES = 3


def is_replica() -> bool:
    """Whether this process was started by `look_after`."""
    return _HANDED in os.environ


def run_replica(sources: Sequence[ModelSource], settings: Settings) -> None:
    """Be one replica: take over the socket, the memory of the metrics and the pipe that ends with the parent."""
    listening, memory, life = (int(part) for part in os.environ[_HANDED].split(","))
    shared = metrics.Metrics(mmap.mmap(memory, 0), settings.replicas, int(os.environ[_REPLICA]))
    if settings.threads is None:
        settings = replace(settings, threads=max(1, usable_cores() // settings.replicas))
    server.run(sources, settings, socket.socket(fileno=listening), shared, life)


def look_after(settings: Settings, arguments: Sequence[str]) -> int:
    """Start the replicas with the same command line, replace those that die, pass signals on; gives an exit code."""
    listening = server.bound(settings)
    with tempfile.TemporaryFile() as memory:
        memory.truncate(8 * metrics.ROW * settings.replicas)
        inside, ours = os.pipe()
        try:
            return _Replicas(settings, arguments, (listening.fileno(), memory.fileno(), inside)).run()
        finally:
            os.close(ours)
            os.close(inside)
            listening.close()


class _Replicas:
    def __init__(self, settings: Settings, arguments: Sequence[str], handed: tuple[int, int, int]) -> None:
        self._settings = settings
        self._command = [sys.executable, "-m", "untorch", "serve", *arguments]
        self._handed = handed
        self._ending = False
        self._reload = False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._noted)
        running = [self._start(index) for index in range(self._settings.replicas)]
        started = [time.monotonic()] * len(running)
        failures = 0
        while not self._ending:
            for index, process in enumerate(running):
                if (code := process.poll()) is None:
                    continue
                failures = failures + 1 if time.monotonic() - started[index] < _STARTED else 0
                say(f"untorch: replica {index} ended with {code}")
                if failures >= _FAILURES or code == 2:
                    self._signal(running, signal.SIGTERM)
                    return self._ended(running) or 1
                running[index], started[index] = self._start(index), time.monotonic()
            if self._reload:
                self._reload = False
                self._signal(running, signal.SIGHUP)
            time.sleep(0.1)
        self._signal(running, signal.SIGTERM)
        return self._ended(running)

    def _noted(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._ending = True

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        handed = ",".join(map(str, self._handed))
        environment = {**os.environ, _REPLICA: str(index), _HANDED: handed, SUPERVISOR: str(os.getpid())}
        # A group of its own, so that Ctrl+C in a terminal reaches this process alone, which passes it on.
        return subprocess.Popen(self._command, env=environment, pass_fds=self._handed, process_group=0)

    def _signal(self, running: list[subprocess.Popen[bytes]], number: int) -> None:
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    def _ended(self, running: list[subprocess.Popen[bytes]]) -> int:
        end = time.monotonic() + self._settings.drain_timeout + 5
        codes = []
        for process in running:
            try:
                codes.append(process.wait(max(0.1, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        return next((code for code in codes if code), 0)
