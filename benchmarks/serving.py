"""`untorch serve` measured: beside the library, beside its own batcher, under too much load, and beside other servers.

    python -m benchmarks.serving [--quick] [--bundle DIR] [--checkpoint DIR]

Everything runs on this machine, in turns and in rounds, so that figures of one run can be compared with each other.
`make bench-serve` runs it; the figures go to `results/serving.json`. Other servers run in environments of their own
(`.environments/serving-NAME`, or UNTORCH_PEER_NAME=PYTHON) on `--checkpoint`; those that are absent are left out and
named.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import environments, loads
from benchmarks.machine import describe
from benchmarks.workloads import SEED, WORDS
from untorch import Batcher, pipeline

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "serving.json"
EMBEDDED = FOLDER.parent / "models/untorch-minilm-sst2/untorch_minilm_sst2/bundle"
PEERS = {"fastapi-optimum": "fastapi_optimum.py", "litserve-transformers": "litserve_transformers.py"}

TEXTS = 200
CLIENTS = 64


def make_texts(count: int, words: tuple[int, int] = (5, 25)) -> list[str]:
    """Sentences of common words."""
    rng = random.Random(SEED)
    return [" ".join(rng.choices(WORDS, k=rng.randint(*words))) for _ in range(count)]


def untorch_server(bundle: Path, *options: str) -> AbstractContextManager[tuple[str, subprocess.Popen[str]]]:
    """A server of one bundle: its URL and its process."""
    return untorch_servers({"m": bundle}, *options)


@contextmanager
def untorch_servers(bundles: dict[str, Path], *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of bundles by name."""
    words = [f"{name}={path}" for name, path in bundles.items()]
    command = [sys.executable, "-m", "untorch", "serve", *words, "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r" at (http://\S+)", line):
            break
    else:
        raise RuntimeError("the server did not start")
    try:
        yield found[1], process
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()


@contextmanager
def peer_server(python: Path, script: str, checkpoint: Path) -> Iterator[str]:
    """Another server on a free port: its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), str(FOLDER / "servers" / script), str(port), str(checkpoint)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    try:
        end = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < end:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"{script} did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
            process.wait(60)


def rounds_of(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each measure in turn, `rounds` times."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def added(url: str, classify: Any, texts: list[str], rounds: int) -> dict[str, Any]:
    """One connection, one short text: what HTTP adds to the library's call, in milliseconds."""
    requests = [loads.post("/predict", json.dumps({"inputs": text}).encode()) for text in texts]
    times: dict[str, list[float]] = {"library": [], "http": []}

    with loads.Plain(url) as connection:
        for number in range(rounds + 1):
            for request in requests:
                start = time.perf_counter()
                assert connection.ask(request) == 200
                times["http"].append(time.perf_counter() - start)
            for text in texts:
                start = time.perf_counter()
                classify(text, top_k=None)
                times["library"].append(time.perf_counter() - start)
            if not number:  # the first round warms up
                for measured in times.values():
                    measured.clear()
    told = {name: {f"p{p}_ms": loads.percentile(seconds, p) for p in (10, 50, 99)} for name, seconds in times.items()}
    difference = {p: round(told["http"][p] - told["library"][p], 3) for p in ("p10_ms", "p50_ms", "p99_ms")}
    return {**told, "added": difference}


def crowd(url: str, classify: Any, texts: list[str], seconds: float, rounds: int) -> dict[str, Any]:
    """64 connections of single texts, beside 64 tasks on the batcher in this process."""
    requests = [loads.post("/predict", json.dumps({"inputs": text}).encode()) for text in texts]

    def over_http() -> float:
        return asyncio.run(loads.closed(url, requests, CLIENTS, seconds)).rate

    def in_process() -> float:
        async def main() -> float:
            with Batcher(classify) as batcher:
                end, answered = time.perf_counter() + seconds, 0

                async def caller(number: int) -> None:
                    nonlocal answered
                    while time.perf_counter() < end:
                        await batcher.answer(texts[number % len(texts)], top_k=None)
                        answered += 1
                        number += CLIENTS

                await asyncio.gather(*map(caller, range(CLIENTS)))
                return answered / seconds

        return asyncio.run(main())

    found = rounds_of({"http": over_http, "batcher": in_process}, rounds)
    shares = [http / batcher for http, batcher in zip(found["http"], found["batcher"], strict=True)]
    return {**found, "share": statistics.median(shares)}


def long_list(url: str, classify: Any, count: int, rounds: int) -> dict[str, Any]:
    """One request with a long list, beside the library's call with it, in seconds."""
    texts = make_texts(count)
    request = loads.post("/predict", json.dumps({"inputs": [[text] for text in texts]}).encode())

    def over_http() -> float:
        async def main() -> float:
            connection = loads.Connection(url)
            start = time.perf_counter()
            assert await connection.ask(request) == 200
            connection.close()
            return time.perf_counter() - start

        return asyncio.run(main())

    def library() -> float:
        start = time.perf_counter()
        classify(texts, top_k=None, truncation=True)
        return time.perf_counter() - start

    found = rounds_of({"http": over_http, "library": library}, rounds)
    ratios = [http / own for http, own in zip(found["http"], found["library"], strict=True)]
    return {"texts": count, **found, "ratio": statistics.median(ratios)}


def overload(bundle: Path, texts: list[str], seconds: float) -> dict[str, Any]:
    """Ten times the rate that it can serve: what is served, how fast the rest is refused, and the memory."""
    requests = [loads.post("/predict", json.dumps({"inputs": text}).encode()) for text in texts]
    # With a short queue, so that most are refused: the generator has CONNECTIONS requests under way at most.
    with untorch_server(bundle, "--max-queue-texts", "64") as (url, process):
        best = asyncio.run(loads.closed(url, requests, CLIENTS, seconds)).rate
        before = _resident(process.pid)
        load = asyncio.run(loads.opened(url, requests, 10 * best, seconds))
        after = _resident(process.pid)
    share = round(load.rate / best, 3)
    return {"best_rate": round(best, 1), **load.summary(), "share_of_best": share, "resident_mib": [before, after]}


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, 1)  # type: ignore[index]


def rivals(bundle: Path, checkpoint: Path | None, texts: list[str], seconds: float, rate: float) -> dict[str, Any]:
    """Each server in turn: its rate with 16 connections, and its latency at a low fixed rate."""
    requests = [loads.post("/predict", json.dumps({"inputs": text}).encode()) for text in texts]

    def measured(url: str) -> dict[str, Any]:
        asyncio.run(loads.closed(url, requests, 4, 1.0))
        full = asyncio.run(loads.closed(url, requests, 16, seconds)).summary()
        return {"closed_16": full, "open": asyncio.run(loads.opened(url, requests, rate, seconds)).summary()}

    found: dict[str, Any] = {"rate_of_open": rate}
    with untorch_server(bundle) as (url, _):
        found["untorch"] = measured(url)
    for name, script in PEERS.items():
        variable = f"UNTORCH_PEER_{name.upper().replace('-', '_')}"
        python = Path(os.environ.get(variable) or environments.python(f"serving-{name}"))
        if checkpoint is None or not python.exists():
            found[name] = "left out: its environment or --checkpoint is missing"
            continue
        try:
            with peer_server(python, script, checkpoint) as url:
                found[name] = measured(url)
        except RuntimeError as error:
            found[name] = f"left out: {error}"
    return found


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=EMBEDDED)
    parser.add_argument("--checkpoint", type=Path, help="what the other servers load: transformers' files and onnx/")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rounds, seconds, count = (2, 2.0, 1000) if arguments.quick else (7, 10.0, 10_000)
    classify = pipeline("text-classification", arguments.bundle)
    texts = make_texts(TEXTS)
    with untorch_server(arguments.bundle) as (url, _):
        report: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": describe(),
            "load_average": [round(value, 2) for value in os.getloadavg()],
            "precision": classify.precision,
            "added": added(url, classify, texts, rounds),
            "crowd": crowd(url, classify, texts, seconds, rounds),
            "long_list": long_list(url, classify, count, rounds),
        }
    report["overload"] = overload(arguments.bundle, texts, 6 * seconds)
    report["rivals"] = rivals(arguments.bundle, arguments.checkpoint, texts, seconds, 20.0)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
