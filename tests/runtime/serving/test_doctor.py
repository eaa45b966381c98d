"""`untorch doctor --url` asks a running server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

from helpers.servers import Server


def doctor(url, **environment):

    return subprocess.run(
        [sys.executable, "-m", "untorch", "doctor", "--url", url, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_a_server_tells_its_models_and_what_it_did(server, bundles):
    server.post("/predict", {"inputs": "nice"})
    done = doctor(server.url)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report["models"]) == list(bundles)
    assert "zero-shot-classification" in report["models"]["nli"]
    assert report["server"]["ready"] == "yes"
    assert int(report["requests"]["status 200"]) >= 1


def test_what_is_wrong_is_named(bundles):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = doctor(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (done.returncode, "nothing answers" in done.stderr) == (2, True)
    assert doctor("localhost").returncode == 2
    with Server({"sst": bundles["sst"]}, "--api-key", "k", "--threads", "1") as locked:
        done = doctor(locked.url)
        assert (done.returncode, "UNTORCH_API_KEY" in done.stderr) == (2, True)
        assert doctor(locked.url, UNTORCH_API_KEY="k").returncode == 0
