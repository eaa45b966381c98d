"""The child's side of processes.py: reads a job a line from stdin, does it, writes its results a line each to stdout.

    python child.py package.module:function

It is run as a script and imports little, nothing of untorch: it runs in the environments of other engines as well, and
the time from the start of its process to a first answer is measured.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any


def serve(function: str) -> None:
    """Do jobs until stdin ends."""
    # Results go out on a copy of stdout, and stdout to stderr: libraries print, and that must not be read as results.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    work = None
    for line in sys.stdin:
        try:
            work = work or _load(function)
            for result in work(json.loads(line)):
                say({"result": result})
        except Exception as error:  # whatever the job raises is its result
            say({"error": _describe(error)})
        else:
            say({})


def _load(function: str) -> Any:
    module, _, name = function.partition(":")
    found = getattr(import_module(module), name)
    return found() if isinstance(found, type) else found


def _describe(error: Exception) -> str:
    """An error in one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:400]


if __name__ == "__main__":
    # As `python -m` has it: modules are found from the working directory, not from beside this file.
    sys.path[0] = os.getcwd()  # noqa: PTH109
    serve(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # the threads of some engines never end
