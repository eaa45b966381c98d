"""Starts processes of `benchmarks.worker` and asks them. Only the one that is asked runs; the others are stopped."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from benchmarks import environments, models
from benchmarks.peers import Model, Peer
from untorch.tools.processes import Child, ChildError

_TIMEOUT = 300.0


class WorkerError(Exception):
    """An engine cannot be installed, failed, ended, or took too long. The message is the reason."""


class Worker:
    """One engine with one model, loaded and stopped until it is asked something.

    Raises WorkerError if it cannot load.
    """

    def __init__(self, peer: Peer, model: Model) -> None:
        self.peer = peer
        self._child = _start(peer)
        try:
            self.loaded = self._result(_load(peer, model, "a text to begin with"))
        except WorkerError:
            self.close()
            raise
        self._child.signal(signal.SIGSTOP)

    def ask(self, do: str, **arguments: Any) -> Any:
        """Wake it, have something done, stop it again. Raises WorkerError; the worker may be dead then."""
        self._child.signal(signal.SIGCONT)
        try:
            return self._result({"do": do, **arguments})
        finally:
            self._child.signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def _result(self, job: dict[str, Any]) -> Any:
        try:
            [result] = self._child.ask(job, _TIMEOUT)
        except ChildError as error:
            raise WorkerError(str(error)) from error
        return result


def cold_start(peer: Peer, model: Model, text: str) -> tuple[float, int]:
    """The seconds from process start to the first answer, and the peak resident bytes by then. Raises WorkerError."""
    start = time.perf_counter()
    with _start(peer) as child:
        try:
            found = next(child.ask(_load(peer, model, text), _TIMEOUT))
        except ChildError as error:
            raise WorkerError(str(error)) from error
        return time.perf_counter() - start, found["peak"]


def environment(**more: str) -> dict[str, str]:
    """Environment variables of every process: no network, two threads, sources on the path."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(environments.ROOT / folder) for folder in ("", "runtime")),
        "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "2",
        "TOKENIZERS_PARALLELISM": "true",
        # Write bytecode: pip compiles what it installs, but untorch runs from its sources.
        "PYTHONDONTWRITEBYTECODE": "",
        "TORCHINDUCTOR_CACHE_DIR": str(models.FOLDER / "inductor"),
        **more,
    }


def _load(peer: Peer, model: Model, text: str) -> dict[str, str]:
    names = {"peer": peer.name, "model": model.name, "task": model.task}
    return {"do": "load", **names, "folder": str(model.folder), "text": text}


def _start(peer: Peer) -> Child:
    reason = environments.failure(peer.environment)
    if reason is not None:
        raise WorkerError(f"its environment cannot be installed here: {reason}")
    return Child(
        "benchmarks.worker:Work",
        python=environments.python(peer.environment),
        env=environment(),
        cwd=environments.ROOT,
        log=models.FOLDER / f"{peer.name}.log",
    )
