"""Puts mixed load on one process for half an hour, and checks answers, memory, threads and open files.

    python benchmarks/soak.py [BUNDLE] [--minutes N] [--threads N]

Threads and asyncio tasks share one Batcher while lists go through the same pipeline beside it; texts have 1 to 400
words, and every fiftieth caller gives up at once. Resident memory, open files and threads are read every ten seconds.
The figures go to `results/soak.json`; the exit code is 1 where one of them is not what it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from untorch import Batcher, pipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.machine import describe
from benchmarks.workloads import SEED, WORDS

RESULTS = Path(__file__).parent / "results" / "soak.json"
EMBEDDED = Path(__file__).resolve().parents[1] / "models/untorch-minilm-sst2/untorch_minilm_sst2/bundle"
PACKAGES = ("numpy", "tokenizers", "onnxruntime")

TEXTS, LONGEST = 600, 400
THREADS, TASKS = 8, 8
PAUSE = 0.2  # seconds that a caller waits between two calls, on average
INTERVAL = 10.0  # seconds between two readings
WARM_UP = 300.0  # seconds after which memory has to be level
LEVEL = 0.05  # how far a reading may be from the median of its time, and the second half from the first

# Scores of one text in different batches may differ by rounding.
TOLERANCE = 1e-5


def make_texts(rng: random.Random) -> list[str]:
    """Texts of 1 to LONGEST words, short ones more often than long ones."""
    lengths = [round(LONGEST ** rng.random()) for _ in range(TEXTS)]
    return [" ".join(rng.choices(WORDS, k=length)) for length in lengths]


def reading() -> dict[str, int]:
    """The resident bytes of this process, the anonymous ones among them, its open files and its threads."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss": int(status["VmRSS"].split()[0]) * 1024,
        "anonymous": int(status["RssAnon"].split()[0]) * 1024,
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": int(status["Threads"]),
    }


class Load:
    """Callers of one pipeline and one batcher, until `stop` is set; counts what became of every call."""

    def __init__(self, classify: Any, batcher: Batcher, texts: list[str], expected: list[dict[str, Any]]) -> None:
        self.classify, self.batcher, self.texts, self.expected = classify, batcher, texts, expected
        self.stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def start(self) -> list[threading.Thread]:
        """All callers: THREADS threads, one event loop with TASKS tasks, and one thread that asks for lists."""
        callers: list[Callable[[], None]] = [lambda seed=seed: self._thread(seed) for seed in range(THREADS)]  # type: ignore[misc]
        callers += [lambda: asyncio.run(self._tasks()), self._lists]
        threads = [threading.Thread(target=caller, daemon=True) for caller in callers]
        for thread in threads:
            thread.start()
        return threads

    def _count(self, way: str, index: int, answer: dict[str, Any]) -> None:
        expected = self.expected[index]
        right = answer["label"] == expected["label"] and abs(answer["score"] - expected["score"]) <= TOLERANCE
        with self.lock:
            self.counts[way if right else "wrong"] += 1

    def _gave_up(self) -> None:
        with self.lock:
            self.counts["gave up"] += 1

    def _thread(self, seed: int) -> None:
        rng = random.Random(f"{SEED} thread {seed}")
        while not self.stop.wait(rng.expovariate(1 / PAUSE)):
            index = rng.randrange(TEXTS)
            try:
                self._count("thread", index, *self.batcher(self.texts[index], timeout=_patience(rng)))
            except TimeoutError:
                self._gave_up()

    async def _tasks(self) -> None:
        async def task(seed: int) -> None:
            rng = random.Random(f"{SEED} task {seed}")
            while not self.stop.is_set():
                await asyncio.sleep(rng.expovariate(1 / PAUSE))
                index = rng.randrange(TEXTS)
                try:
                    answers = await self.batcher.answer(self.texts[index], timeout=_patience(rng))
                    self._count("task", index, *answers)
                except TimeoutError:
                    self._gave_up()

        await asyncio.gather(*map(task, range(TASKS)))

    def _lists(self) -> None:
        rng = random.Random(f"{SEED} lists")
        while not self.stop.wait(rng.expovariate(1 / (10 * PAUSE))):
            rows = rng.choices(range(TEXTS), k=rng.randint(1, 64))
            for index, answer in zip(rows, self.classify([self.texts[index] for index in rows]), strict=True):
                self._count("list", index, answer)


def _patience(rng: random.Random) -> float | None:
    return 0.0 if rng.random() < 0.02 else None


def judge(readings: list[dict[str, Any]], counts: dict[str, int]) -> dict[str, Any]:
    """The figures after the warm-up, and under `passed` whether all of them are as they must be."""
    late = [entry for entry in readings if entry["seconds"] >= WARM_UP] or readings
    first, second = late[: len(late) // 2] or late, late[len(late) // 2 :]
    rss = [entry["rss"] for entry in late]
    median = statistics.median(rss)
    farthest = max(abs(value - median) for value in rss) / median
    halves = [statistics.median(entry["rss"] for entry in half) for half in (first, second)]
    growth = halves[1] / halves[0] - 1
    found: dict[str, Any] = {
        "rss_median_bytes": median,
        "rss_farthest_from_median": round(farthest, 4),
        "rss_growth_of_second_half": round(growth, 4),
        "answers_wrong": counts.get("wrong", 0),
    }
    good = farthest <= LEVEL and growth <= LEVEL and not counts.get("wrong")
    for name in ("files", "threads"):
        most = [max(entry[name] for entry in half) for half in (first, second)]
        found[f"{name}_at_most_in_each_half"] = most
        good = good and most[1] <= most[0]
    return {**found, "passed": good}


def _source(classify: Any) -> str | None:
    manifest = classify.model.bundle.manifest
    return manifest and manifest.source.get("name")


def main() -> int:
    """Run the load and write the figures. Returns 0 if `judge` passed it, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=EMBEDDED)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    started = datetime.now(UTC)
    classify = pipeline("text-classification", arguments.bundle, device="cpu", threads=arguments.threads)
    texts = make_texts(random.Random(SEED))
    load = Load(classify, Batcher(classify), texts, [classify([text])[0] for text in texts])
    callers = load.start()
    start = time.monotonic()
    readings: list[dict[str, Any]] = []
    while (passed := time.monotonic() - start) < 60 * arguments.minutes:
        readings.append({"seconds": round(passed), **reading()})
        time.sleep(INTERVAL)
        if not all(caller.is_alive() for caller in callers):
            print("a caller ended with an error", file=sys.stderr)
            return 1
    load.stop.set()
    for caller in callers:
        caller.join()
    load.batcher.close()
    verdict = judge(readings, load.counts)
    report = {
        "date": started.isoformat(timespec="seconds"),
        "minutes": arguments.minutes,
        "machine": describe(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "load_average_at_end": [round(value, 2) for value in os.getloadavg()],
        "model": {"source": _source(classify), "precision": classify.precision, "threads": arguments.threads},
        "load": {"threads": THREADS, "tasks": TASKS, "texts": TEXTS, "words": [1, LONGEST]},
        "calls": dict(load.counts),
        "verdict": verdict,
        "readings": readings,
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({"calls": report["calls"], **verdict}, indent=1))
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
