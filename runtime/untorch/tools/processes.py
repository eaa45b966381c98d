"""Run measurements in a process of their own: start it, hand it jobs, read its results line by line.

What is measured must not find what another measurement left behind: loaded libraries, warm threads, grown memory.
`Child` starts a Python process and talks to it; in that process child.py calls the function that does the jobs:

    def squares(job):
        for number in job:
            yield number * number

    with Child("my_module:squares") as child:
        list(child.ask([1, 2, 3], timeout=10))       # [1, 4, 9]

Jobs and results are JSON, one message a line.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

_CHILD = Path(__file__).with_name("child.py")
_END = ""  # what readline gives at the end of a file


class ChildError(RuntimeError):
    """The child process raised an error, ended, or took too long. The message is one line that says which."""


class Child:
    """A Python process that does jobs with `function`, named as "package.module:function".

    The function is called with each job and returns an iterable of results, usually as a generator; jobs and results
    are JSON values. A class is instantiated once, and the instance is called instead, so that it can keep state from
    job to job. An error that it raises reaches the caller of `ask`, and the process takes the next job.

    `python` is the interpreter, `env` the environment variables (default: this process's), `cwd` the working directory.
    What the process prints goes to the end of the file `log`, or nowhere.
    """

    def __init__(
        self,
        function: str,
        *,
        python: str | os.PathLike[str] = sys.executable,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        log: Path | None = None,
    ) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile() if log is None else log.open("a+b")  # noqa: SIM115
        self._log_start = self._log.seek(0, os.SEEK_END)
        # A session of its own, so that the processes that it starts can be ended with it.
        self._process = subprocess.Popen(
            [os.fspath(python), str(_CHILD), function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        # Called by `close`, or when this object is collected, or when this interpreter exits.
        self._close = weakref.finalize(self, _close, self._process, self._log)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_read_lines, args=(self._process, self._lines), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(self, job: Any, timeout: float) -> Iterator[Any]:
        """Hand over a job and yield its results, each as soon as it is there. Read them all before the next job.

        Raises ChildError where the job raises one, where the process ends, and, after ending it, where the job takes
        more than `timeout` seconds.
        """
        end = time.monotonic() + timeout
        with suppress(OSError):  # it has ended; what it said before is read below
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                _kill(self._process)
                raise ChildError(f"it took more than {timeout:.0f} s") from None
            if line == _END:
                self._lines.put(_END)  # for the next call
                raise ChildError(f"its process ended with code {self._process.wait()}{self._last_words()}")
            message = json.loads(line)
            if "error" in message:
                raise ChildError(message["error"])
            if "result" not in message:
                return
            yield message["result"]

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it still runs."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def close(self) -> None:
        """End the process and the processes it started. May be called twice."""
        self._close()

    def _last_words(self) -> str:
        """The last line that the ended process printed, as the end of a message."""
        self._log.seek(self._log_start)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((f": {line.strip()[:400]}" for line in reversed(lines) if line.strip()), "")


def _read_lines(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(_END)


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _close(process: subprocess.Popen[str], log: IO[bytes]) -> None:
    _kill(process)
    with suppress(OSError):  # what was written last cannot be delivered any more
        assert process.stdin is not None
        process.stdin.close()
    log.close()
