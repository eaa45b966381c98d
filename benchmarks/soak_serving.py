"""A million requests over the server's routes: none lost, none with another's answer, memory and descriptors level.

    python benchmarks/soak_serving.py [NAME=BUNDLE …] [--requests N]

Without bundles the embedded default is served. Each request has its own text; the answers to all of them are taken
from the library first. Clients keep connections, open new ones, ask for lists, pipeline, and leave before the answer.
The figures go to `results/soak-serving.json`; the exit code is 1 where one of them is not what it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import loads
from benchmarks.machine import describe
from benchmarks.serving import EMBEDDED, make_texts, untorch_servers
from benchmarks.workloads import SEED
from untorch import pipeline

RESULTS = Path(__file__).parent / "results" / "soak-serving.json"
TEXTS = 500
CLIENTS = 32
INTERVAL = 5.0  # seconds between two readings
# How far apart the medians of memory in the second and the last quarter may be.
LEVEL = 0.05
# Scores of one text in different batches may differ by rounding; labels of close ones are not compared.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Case:
    """A request, and whether an answer to it is the right one."""

    request: bytes
    right: Callable[[Any], bool]
    route: str


def close(ours: Any, theirs: Any) -> bool:
    """Whether two answers are equal but for rounding; records in any order of their keys."""
    if isinstance(theirs, dict):
        return set(ours) == set(theirs) and all(close(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    return abs(ours - theirs) <= TOLERANCE if isinstance(theirs, float) else bool(ours == theirs)


def case(path: str, body: Any, expected: Any, read: Callable[[Any], Any] = lambda answer: answer) -> Case:
    """A case whose answer, as `read` takes it, is `expected`."""
    return Case(loads.post(path, json.dumps(body).encode()), lambda answer: close(read(answer), expected), path)


def cases(name: str, answer: Any, texts: list[str]) -> list[Case]:
    """Every route of a model with texts of its own."""
    made: list[Case] = []
    for text in texts:
        path, ids = f"/models/{name}/tokenize", answer.tokenizer.encode(text)
        made.append(case(path, {"inputs": text}, ids, lambda rows: [token["id"] for token in rows[0]]))
    if answer.task == "text-classification":
        every = answer(texts, top_k=None, truncation=True)
        for index, (text, own) in enumerate(zip(texts, every, strict=True)):
            made.append(case(f"/models/{name}/predict", {"inputs": text}, own))
            made.append(case(f"/models/{name}", {"inputs": text}, [own]))
            some = [(index + step) % len(texts) for step in range(1 + index % 9)]
            batch = {"inputs": [[texts[place]] for place in some]}
            made.append(case(f"/models/{name}/predict", batch, [every[place] for place in some]))
            tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
            path = f"/v2/models/{name}/infer"
            best = float(own[0]["score"])
            made.append(case(path, {"inputs": [tensor]}, best, lambda told: float(told["outputs"][1]["data"][0])))
    elif answer.task in ("feature-extraction", "sentence-embeddings"):
        embed = pipeline("sentence-embeddings", answer.model.bundle.path)
        for text, vector in zip(texts, embed(texts, normalize=True, truncation=True).tolist(), strict=True):
            made.append(case(f"/models/{name}/embed", {"inputs": text}, [vector]))
            body = {"input": text, "model": name}
            made.append(case("/v1/embeddings", body, vector, lambda told: told["data"][0]["embedding"]))
    elif answer.task == "text-generation":
        for text in {" ".join(text.split()[:5]) for text in texts[:50]}:
            wanted = "".join(answer.stream(text, do_sample=False, max_new_tokens=4))
            body = {"model": name, "prompt": text, "max_tokens": 4, "temperature": 0}
            made.append(case("/v1/completions", body, wanted, lambda told: told["choices"][0]["text"]))
    elif answer.task == "token-classification":
        settings = {"aggregation_strategy": "simple", "stride": 16}
        for text, found in zip(texts, answer(texts, **settings), strict=True):
            made.append(case(f"/models/{name}", {"inputs": text}, found))
    return made


async def soak(url: str, made: list[Case], requests: int, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Send the requests, check every answer, and read the process every INTERVAL seconds."""
    counts: Counter[str] = Counter()
    left = iter(range(requests))
    readings: list[dict[str, Any]] = []
    done = asyncio.Event()

    async def client(seed: int) -> None:
        rng = random.Random(f"{SEED} client {seed}")
        connection = loads.Connection(url)
        for _ in left:
            chosen = rng.choice(made)
            chance = rng.random()
            if chance < 0.01:
                await connection.leave(chosen.request)
                counts["left before the answer"] += 1
                continue
            if chance < 0.03:
                connection.close()
            status = await connection.ask(chosen.request)
            if status == 200:
                counts["right" if chosen.right(json.loads(connection.body)) else f"wrong {chosen.route}"] += 1
            else:
                counts[f"status {status}"] += 1
        connection.close()

    async def watch() -> None:
        start = time.monotonic()
        while not done.is_set():
            readings.append({"seconds": round(time.monotonic() - start), **read()})
            try:
                await asyncio.wait_for(done.wait(), INTERVAL)
            except TimeoutError:
                continue

    watching = asyncio.ensure_future(watch())
    await asyncio.gather(*map(client, range(CLIENTS)))
    done.set()
    await watching
    return {"counts": dict(counts), "readings": readings}


def judge(report: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What must hold, each with its figure."""
    readings = report["readings"]
    quarter = max(1, len(readings) // 4)
    early = statistics.median(reading["resident"] for reading in readings[quarter : 2 * quarter] or readings)
    late = statistics.median(reading["resident"] for reading in readings[-quarter:])
    wrong = {name: count for name, count in report["counts"].items() if name not in ("right", "left before the answer")}
    growth = late / early - 1
    files = [readings[0]["files"], after["files"]]
    good = not wrong and growth <= LEVEL and files[1] <= files[0] + 2
    return {"wrong": wrong, "memory_growth": round(growth, 4), "files_before_and_after": files, "passed": good}


def reading(pid: int) -> dict[str, Any]:
    """A process now: resident bytes, open files, threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {"resident": int(status["VmRSS"].split()[0]) * 1024, "files": files, "threads": int(status["Threads"])}


def main() -> int:
    """Run the soak and write the figures; 0 if all is level and right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", default=[f"sst2={EMBEDDED}"])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bundles = {name: Path(path) for name, _, path in (word.partition("=") for word in arguments.bundles)}
    texts = make_texts(TEXTS, (1, 40))
    made = [one for name, path in bundles.items() for one in cases(name, pipeline(None, path), texts)]
    with untorch_servers(bundles) as (url, process):
        idle = reading(process.pid)
        report = asyncio.run(soak(url, made, arguments.requests, lambda: reading(process.pid)))
        report["readings"][0]["files"] = idle["files"]
        time.sleep(1.0)
        verdict = judge(report, reading(process.pid))
    report = {"machine": describe(), "bundles": sorted(bundles), "requests": arguments.requests, **report, **verdict}
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({"counts": report["counts"], **verdict}, indent=1))
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
