"""Many replicas, simulated: arrivals, batches, failures. First it reproduces what one and two replicas really did.

    python benchmarks/scaling_simulation.py [--replicas 1000] [--utilisation 0.6] [--hours-between-failures 24]

It reads results/scaling.json (`python benchmarks/scaling.py`). A replica takes what waits when it is free, up to the
batcher's tokens, for a time on the line fitted to the batches that were timed, times how far one of those was off the
line: to repeat a measurement the batch nearest in time, which on a machine that others use tells a slow moment from a
quick one, and else any. Requests are dealt to the replicas in turn; those of a replica that fails go to the next and
are answered from the start again.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import json
import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "scaling.json"
MAX_TOKENS = 2048


class ServiceTime:
    """Seconds that a batch takes: a part of its own, a part a text and a part a token, times how far one was off.

    `batches` are (start, texts, tokens, seconds). With `repeat` the batch nearest in time says how far.
    """

    def __init__(self, batches: list[list[float]], *, repeat: bool = False) -> None:
        start, texts, tokens, seconds = np.array(sorted(batches)).T
        parts = np.stack([np.ones_like(texts), texts, tokens], axis=1)
        # Weighted by 1 / seconds: short batches are as many as long ones, and count as much.
        self._parts = np.linalg.lstsq(parts / seconds[:, None], np.ones_like(seconds), rcond=None)[0].tolist()
        self._least = float(seconds.min())
        self._off = (seconds / np.maximum(parts @ self._parts, self._least)).tolist()
        self._starts = start.tolist() if repeat else None

    def capacity(self, tokens: float) -> float:
        """Texts of so many tokens a second, in batches as large as the batcher makes them."""
        own, text, token = self._parts
        texts = MAX_TOKENS / tokens
        return texts / ((own + text * texts + token * MAX_TOKENS) * float(np.mean(self._off)))

    def draw(self, texts: int, tokens: int, now: float, chance: random.Random) -> float:
        """The time of one batch that begins at `now`."""
        own, text, token = self._parts
        line = max(own + text * texts + token * tokens, self._least)
        if self._starts is None:
            return line * chance.choice(self._off)
        after = bisect.bisect(self._starts, now)
        near = min(
            (place for place in (after - 1, after) if 0 <= place < len(self._starts)),
            key=lambda place: abs(self._starts[place] - now),
        )
        return line * self._off[near]


@dataclass
class Replica:
    """One replica: what waits there, what it has in hand, and since when it is up."""

    service: ServiceTime
    waiting: deque[int] = field(default_factory=deque)
    batch: list[int] = field(default_factory=list)
    up: bool = True
    # Counts its failures, so that the end of a batch that a failure cut short is known for what it is.
    life: int = 0


def simulate(  # noqa: C901, PLR0915  # one loop over events, and what each does
    services: list[ServiceTime],
    arrivals: list[float],
    tokens: list[int],
    *,
    seed: int = 0,
    between_failures: float = 0.0,
    restart: float = 0.0,
) -> tuple[np.ndarray, int]:
    """Latency of every request, in seconds, and how many were answered again. One service time a replica."""
    chance = random.Random(seed)
    replicas = [Replica(service) for service in services]
    latencies = np.full(len(arrivals), np.nan)
    events: list[tuple[float, int, str, int, int]] = []
    order = 0
    turn = 0
    again = 0

    def at(when: float, kind: str, which: int, life: int = 0) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, kind, which, life))

    def deal(request: int, now: float) -> None:
        nonlocal turn
        for _ in replicas:
            turn = (turn + 1) % len(replicas)
            if replicas[turn].up:
                break
        replicas[turn].waiting.append(request)
        begin(turn, now)

    def begin(which: int, now: float) -> None:
        replica = replicas[which]
        if replica.batch or not replica.up or not replica.waiting:
            return
        held = 0
        while replica.waiting and (not replica.batch or held + tokens[replica.waiting[0]] <= MAX_TOKENS):
            held += tokens[replica.waiting[0]]
            replica.batch.append(replica.waiting.popleft())
        at(now + replica.service.draw(len(replica.batch), held, now, chance), "done", which, replica.life)

    for request, when in enumerate(arrivals):
        at(when, "arrival", request)
    if between_failures:
        for which in range(len(replicas)):
            at(chance.expovariate(1 / between_failures), "failure", which)
    open_requests = len(arrivals)
    while open_requests:
        now, _, kind, which, life = heapq.heappop(events)
        if kind == "arrival":
            deal(which, now)
            continue
        replica = replicas[which]
        if kind == "done" and life == replica.life:
            latencies[replica.batch] = [now - arrivals[request] for request in replica.batch]
            open_requests -= len(replica.batch)
            replica.batch = []
            begin(which, now)
        elif kind == "failure":
            lost = [*replica.batch, *replica.waiting]
            again += len(lost)
            replica.batch, replica.up, replica.life = [], False, replica.life + 1
            replica.waiting.clear()
            at(now + restart, "restart", which)
            for request in lost:
                deal(request, now)
        elif kind == "restart":
            replica.up = True
            begin(which, now)
            at(now + chance.expovariate(1 / between_failures), "failure", which)
    return latencies, again


def summary(latencies: np.ndarray) -> dict[str, float]:
    """Median, 99th percentile and mean, in milliseconds."""
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "mean": round(float(latencies.mean()) * 1e3, 2)}


def repeated(point: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """What a measured point was, and what the simulation makes of the same requests, replica by replica."""
    measured, simulated = [], []
    for seen in point["seen"]:
        at, tokens, latencies = zip(*sorted(seen["requests"]), strict=True)
        measured.append(latencies)
        service = ServiceTime(seen["batches"], repeat=True)
        simulated.append(simulate([service], list(at), list(tokens))[0])
    return summary(np.concatenate(measured)), summary(np.concatenate(simulated))


def main() -> None:
    """Repeat what was measured, then simulate what was not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--utilisation", type=float, default=0.6)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--hours-between-failures", type=float, default=24, help="of one replica")
    parser.add_argument("--restart", type=float, default=30, help="seconds until a replica that failed is back")
    arguments = parser.parse_args()
    data = json.loads(RESULTS.read_text())
    print(f"measured on {data['machine']['processor']}, load {data['load'][0]:.0f} on {data['machine']['cores']} cores")
    print("replicas  share   measured p50 / p99 ms   simulated p50 / p99 ms")
    for point in data["points"]:
        measured, simulated = repeated(point)
        print(
            f"{point['replicas']:8}  {point['utilisation']:5.0%}   {measured['p50']:9.1f} / {measured['p99']:7.1f}"
            f"   {simulated['p50']:11.1f} / {simulated['p99']:7.1f}"
        )
    seen = [one for point in data["points"] for one in point["seen"]]
    service = ServiceTime([batch for one in seen for batch in one["batches"]])
    known = [tokens for one in seen for _, tokens, _ in one["requests"]]
    chance = random.Random(0)
    rate = arguments.utilisation * service.capacity(float(np.mean(known))) * arguments.replicas
    arrivals, now = [], 0.0
    while (now := now + chance.expovariate(rate)) < arguments.seconds:
        arrivals.append(now)
    latencies, again = simulate(
        [service] * arguments.replicas,
        arrivals,
        chance.choices(known, k=len(arrivals)),
        between_failures=arguments.hours_between_failures * 3600,
        restart=arguments.restart,
    )
    found = summary(latencies)
    print(
        f"{arguments.replicas} replicas at {arguments.utilisation:.0%}: {rate:,.0f} texts/s, {rate * 86400:.2g} a day; "
        f"p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f} ms, {again} of {len(arrivals):,} answered again"
    )


if __name__ == "__main__":
    main()
