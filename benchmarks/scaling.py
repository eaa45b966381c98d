"""One and two replicas under Poisson arrivals: what the simulation of many must reproduce first.

    python benchmarks/scaling.py [BUNDLE] [--seconds 20]

A replica is a process with one thread for the model and a Batcher. When each request came and how long it waited, and
when each batch began and how long it ran, goes to results/scaling.json, which scaling_simulation.py reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from untorch import Batcher, pipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.machine import describe
from benchmarks.workloads import SEED, WORDS

RESULTS = Path(__file__).parent / "results" / "scaling.json"
EMBEDDED = Path(__file__).resolve().parents[1] / "models/untorch-minilm-sst2/untorch_minilm_sst2/bundle"
MAX_TOKENS = 2048
# Texts of the batches that are timed before a load.
BATCHES = (1, 2, 4, 8, 16, 32, 64)
# Of what one replica can do at most, in batches of 64.
UTILISATIONS = (0.4, 0.7)


def sentence(chance: random.Random) -> str:
    """A text of 4 to 40 words."""
    return " ".join(chance.choices(WORDS, k=chance.randint(4, 40)))


class Timed:
    """A pipeline that notes (start, texts, tokens, seconds) of every batch."""

    def __init__(self, answerer: Any) -> None:
        self._answerer = answerer
        self.batches: list[tuple[float, int, int, float]] = []

    def count_tokens(self, text: str) -> int:
        """As the pipeline counts them."""
        return self._answerer.count_tokens(text)

    def __call__(self, texts: list[str]) -> list[Any]:
        """Answer, and note how long it took."""
        start, clock = time.time(), time.perf_counter()
        answers = self._answerer(texts)
        seconds = time.perf_counter() - clock
        self.batches.append((start, len(texts), sum(map(self.count_tokens, texts)), seconds))
        return answers


def warmed(bundle: str, chance: random.Random) -> Timed:
    """A pipeline of one thread that has timed some batches of every size."""
    timed = Timed(pipeline(None, bundle, threads=1, device="cpu"))
    for size in chance.sample(BATCHES * 3, k=len(BATCHES) * 3):
        timed([sentence(chance) for _ in range(size)])
    return timed


def replica(bundle: str) -> None:
    """Serve the arrivals, (seconds, text) each, that stdin gives once this process says that it is ready."""
    timed = warmed(bundle, random.Random(os.getpid()))
    print("ready", flush=True)
    begin, due = json.loads(sys.stdin.readline())
    # (seconds from the beginning, tokens, latency): as they came, which on a busy machine is later than due.
    requests: list[tuple[float, int, float]] = []

    async def one(batcher: Batcher, at: float, text: str) -> None:
        await asyncio.sleep(max(0.0, begin + at - time.time()))
        start = time.time()
        await batcher.answer(text)
        requests.append((start - begin, timed.count_tokens(text), time.time() - start))

    async def all_of_them() -> None:
        with Batcher(timed, max_tokens=MAX_TOKENS, max_queue=1 << 20) as batcher:
            await asyncio.gather(*(one(batcher, at, text) for at, text in due))

    asyncio.run(all_of_them())
    batches = [(start - begin, *rest) for start, *rest in timed.batches]
    print(json.dumps({"batches": batches, "requests": requests}), flush=True)


def load(bundle: str, replicas: int, rate: float, seconds: float) -> list[dict[str, Any]]:
    """Serve `rate` texts a second and replica, dealt out in turn; what each replica saw."""
    chance = random.Random(SEED)
    arrivals, now = [], 0.0
    while (now := now + chance.expovariate(rate * replicas)) < seconds:
        arrivals.append((now, sentence(chance)))
    command = [sys.executable, __file__, bundle, "--replica"]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(replicas)
    ]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    begin = time.time() + 0.2
    for place, process in enumerate(running):
        process.stdin.write(json.dumps([begin, arrivals[place::replicas]]) + "\n")
        process.stdin.flush()
    seen = [json.loads(process.stdout.readline()) for process in running]
    for process in running:
        process.wait()
    return seen


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", default=str(EMBEDDED))
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--replica", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.replica:
        replica(arguments.bundle)
        return
    largest = [batch for batch in warmed(arguments.bundle, random.Random(SEED)).batches if batch[1] == max(BATCHES)]
    capacity = sum(batch[1] for batch in largest) / sum(batch[3] for batch in largest)
    points = [
        {"replicas": replicas, "utilisation": share, "rate": share * capacity * replicas, "seen": seen}
        for replicas in (1, 2)
        for share in UTILISATIONS
        for seen in [load(arguments.bundle, replicas, share * capacity, arguments.seconds)]
    ]
    result = {"machine": describe(), "load": os.getloadavg(), "texts_per_second_and_thread": capacity, "points": points}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result) + "\n")
    print(f"{capacity:.0f} texts/s a thread; written to {RESULTS}")


if __name__ == "__main__":
    main()
