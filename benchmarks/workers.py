"""Processes of `benchmarks.worker`, seen from outside. All but the one at work are stopped, not just idle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from typing import Any

from benchmarks import environments, models
from benchmarks.peers import Model, Peer


class WorkerError(Exception):
    """An engine failed, died, or took too long; the message is the reason."""


class Worker:
    """One engine with one model, loaded and stopped until it is asked something.

    Raises WorkerError if it cannot load.
    """

    def __init__(self, peer: Peer, model: Model, timeout: float = 300) -> None:
        self.peer = peer
        self._process = _start(peer, model)
        self._timeout = timeout
        try:
            self.loaded = self._read(timeout)
        except WorkerError:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def ask(self, do: str, timeout: float | None = None, **arguments: Any) -> Any:
        """Wake it, have something done, stop it again. Raises WorkerError; the worker may be dead then."""
        self._signal(signal.SIGCONT)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            return self._read(timeout or self._timeout)["result"]
        except OSError as error:
            raise WorkerError(f"its process has ended ({error})") from error
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _read(self, timeout: float) -> dict[str, Any]:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout, give_up)
        timer.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if late.is_set():
            raise WorkerError(f"no answer within {timeout:.0f} s")
        if not line:
            raise WorkerError(f"its process ended with code {self._process.wait()}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise WorkerError(message["error"])
        return message


def cold_start(peer: Peer, model: Model, text: str, timeout: float = 300) -> tuple[float, int]:
    """(seconds from process start to the first answer, peak resident bytes by then). Raises WorkerError."""
    start = time.perf_counter()
    process = _start(peer, model, "--once", text)
    timer = threading.Timer(timeout, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.communicate()
    finally:
        timer.cancel()
    message = json.loads(line) if line else {"error": f"its process ended with code {process.returncode}"}
    if "error" in message:
        raise WorkerError(message["error"])
    return seconds, message["peak"]


def environment(**more: str) -> dict[str, str]:
    """Environment variables of every process: no network, two threads, sources on the path."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(environments.ROOT / folder) for folder in ("", "runtime")),
        "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "2",
        "TOKENIZERS_PARALLELISM": "true",
        # pip compiles what it installs; untorch runs from its sources, and is to be compiled once as well.
        "PYTHONDONTWRITEBYTECODE": "",
        "TORCHINDUCTOR_CACHE_DIR": str(models.FOLDER / "inductor"),
        **more,
    }


def _start(peer: Peer, model: Model, *more: str) -> subprocess.Popen[str]:
    reason = environments.failure(peer.environment)
    if reason is not None:
        raise WorkerError(f"its environment cannot be installed here: {reason}")
    command = [str(environments.python(peer.environment)), "-m", "benchmarks.worker", peer.name, model.name, model.task]
    log = (models.FOLDER / f"{peer.name}.log").open("ab")
    with log:
        return subprocess.Popen(
            [*command, str(model.folder), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=environments.ROOT,
            env=environment(),
        )
