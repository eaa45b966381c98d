"""Lines to stderr that never stop a server: a full disk or a closed pipe loses them."""

from __future__ import annotations

import os


def say(line: str) -> bool:
    """Write one line; whether it was written whole."""
    data = f"{line}\n".encode(errors="backslashreplace")
    try:
        # Past Python's buffer, which would keep what could not be written and fail with it at the end.
        return os.write(2, data) == len(data)
    except OSError:
        return False
