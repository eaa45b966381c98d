"""Asks a running server how it is: what `untorch doctor --url` shows."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from untorch.errors import InputError

_SECONDS = 10.0


def ask(url: str, api_key: str | None = None) -> dict[str, dict[str, str]]:
    """Sections of facts of the server at `url`: `server`, `models`, `requests`. A key comes from UNTORCH_API_KEY.

    Raises InputError where nothing answers there, or the key is wrong.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url} is no URL of a server; it begins with http:// or https://")
    base = url.rstrip("/")
    key = api_key or os.environ.get("UNTORCH_API_KEY")
    start = time.perf_counter()
    ready = _status(f"{base}/health/ready", key)
    took = time.perf_counter() - start
    facts = {
        "url": base,
        "ready": "yes" if ready == 200 else f"no, status {ready}",
        "answers in": f"{1e3 * took:.1f} ms",
    }
    info = _json(f"{base}/info", key)
    limits = ("version", "max_client_batch_size", "max_batch_tokens", "max_concurrent_requests", "max_input_length")
    facts |= {name.replace("_", " "): str(info[name]) for name in limits if name in info}
    models = {
        str(model["id"]): ", ".join(model.get("tasks") or [str(model.get("task"))])
        for model in _json(f"{base}/v1/models", key)["data"]
    }
    return {"server": facts, "models": models, "requests": _counted(base, key)}


def _counted(base: str, key: str | None) -> dict[str, str]:
    """How many requests were answered with which status, and what waits."""
    by_status: dict[str, float] = {}
    facts = {}
    for line in _read(f"{base}/metrics", key).decode().splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("untorch_requests_total{"):
            status = name.partition('status="')[2].partition('"')[0]
            by_status[status] = by_status.get(status, 0) + float(value)
        elif name in ("untorch_queue_texts", "untorch_queue_tokens", "untorch_streams_running", "untorch_texts_total"):
            facts[name.removeprefix("untorch_").replace("_", " ")] = f"{float(value):.0f}"
    return {f"status {status}": f"{count:.0f}" for status, count in sorted(by_status.items()) if count} | facts


def _status(url: str, key: str | None) -> int:
    try:
        with _open(url, key) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def _json(url: str, key: str | None) -> Any:
    data = _read(url, key)
    try:
        return json.loads(data)
    except ValueError:
        raise InputError(f"{url} does not answer in JSON; is it an untorch server?") from None


def _read(url: str, key: str | None) -> bytes:
    try:
        with _open(url, key) as response:
            data: bytes = response.read()
            return data
    except urllib.error.HTTPError as error:
        reason = "the key is missing or wrong: set UNTORCH_API_KEY" if error.code == 401 else f"status {error.code}"
        raise InputError(f"{url}: {reason}") from None


def _open(url: str, key: str | None) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        return urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"nothing answers at {url}: {getattr(error, 'reason', error)}") from None
