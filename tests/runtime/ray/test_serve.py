"""Ray Serve under load: a replica killed, a node killed, a bundle rolled out; every answer comes and is right."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray", reason="pip install 'untorch[ray]'")
pytest.importorskip("untorch.serving", reason="pip install 'untorch[serve]'")

from untorch import pipeline
from untorch.errors import InputError

pytestmark = pytest.mark.scale

TEXTS = ["hello world", "I love this movie", "awful", "the city is nice"]
SECONDS = float(os.environ.get("UNTORCH_RAY_SERVE_SECONDS", "10"))


class Load:
    """Threads that ask one after the other until they are told to stop; an answer that is none is asked for again."""

    def __init__(self, url: str, threads: int = 4):
        self.url = url
        self.seen: list[tuple[float, float, str, float]] = []
        self.again = 0
        self.failed: list[str] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        number = 0
        while not self._end.is_set():
            number += 1
            text = TEXTS[number % len(TEXTS)]
            start = time.time()
            for attempt in range(20):
                try:
                    self.seen.append((start, time.time(), text, self.score(text)))
                    break
                except (OSError, urllib.error.HTTPError):
                    self.again += 1
                    time.sleep(0.05 * (attempt + 1))
            else:
                self.failed.append(text)

    def score(self, text: str) -> float:
        body = json.dumps({"inputs": text}).encode()
        request = urllib.request.Request(f"{self.url}/predict", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return max(one["score"] for one in json.load(response))


def replicas() -> list[int]:
    """The process ids of the replicas."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::ServeReplica:untorch"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def scores(bundle) -> dict[str, float]:
    answerer = pipeline(None, bundle, precision="fp32")
    return {text: answer["score"] for text, answer in zip(TEXTS, answerer(TEXTS), strict=True)}


def test_no_request_is_lost_or_answered_wrongly(nodes, tiny_bundle, frozen_bundle, capsys):
    from ray import serve

    from untorch.ray import deployment

    old, new = scores(tiny_bundle), scores(frozen_bundle)
    options = {"threads": 1, "replicas": (2, 2), "precision": "fp32"}
    victim = nodes.add()
    serve.start(http_options={"host": "127.0.0.1", "port": 18123})
    try:
        serve.run(deployment(tiny_bundle, **options), name="answers", route_prefix="/")
        with Load("http://127.0.0.1:18123") as load:
            time.sleep(SECONDS)
            os.kill(replicas()[0], signal.SIGKILL)
            time.sleep(SECONDS)
            nodes.remove(victim)
            time.sleep(SECONDS)
            serve.run(deployment(frozen_bundle, **options), name="answers", route_prefix="/")
            rolled_out = time.time()
            time.sleep(SECONDS / 2)
    finally:
        serve.shutdown()
    assert load.failed == []
    assert load.seen
    for start, _, text, score in load.seen:
        right = [new[text]] if start > rolled_out + 1 else [old[text], new[text]]
        assert min(abs(score - each) for each in right) < 1e-3, "an answer is of no bundle that was served then"
    assert any(start > rolled_out + 1 for start, *_ in load.seen)
    p50, p99 = np.percentile([end - start for start, end, *_ in load.seen], [50, 99]) * 1e3
    with capsys.disabled():
        print(f"\n{len(load.seen)} requests, {load.again} asked again, p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def test_settings_that_do_not_exist_are_refused_before_anything_starts(tiny_bundle):
    from untorch.ray import deployment

    with pytest.raises(InputError, match="no such setting"):
        deployment(tiny_bundle, no_such=1)
    with pytest.raises(InputError, match="replicas is"):
        deployment(tiny_bundle, replicas=(2, 1))
