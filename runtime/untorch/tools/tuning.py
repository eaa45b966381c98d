"""Which plan is fastest for a bundle on this machine: every plan is measured, each pool in a process of its own.

Only variants inside their gate take part. Nothing is tuned unless it is asked for.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.errors import DependencyError, DeviceError, TaskError, UntorchError, first_line
from untorch.loading.choice import unavailable
from untorch.loading.plans import Plan
from untorch.ort.devices import Device, usable_cores
from untorch.ort.providers import resolve_device
from untorch.tools.benchmark import text_of

# Tokens of the single texts, and of a batch of sentences, that are tried.
LENGTHS = (16, 128)
MAX_TOKENS = {"cpu": (80, 160, 320, 640), "cuda": (4096, 16384, 65536)}
GOALS = ("latency", "throughput")
_TASKS = ("text-classification", "token-classification", "feature-extraction", "sentence-embeddings")

# Seconds for each length, and for each way of making batches in each of its rounds: a busy moment must not decide.
# With three variants on two cores it is three quarters of a minute in all.
_LATENCY_SECONDS, _THROUGHPUT_SECONDS, _ROUNDS = 1.2, 0.3, 2
_SENTENCES, _PROBE = 512, 32
_TIMEOUT = 120


@dataclass(frozen=True)
class Trial:
    """What a plan did: median seconds of a call with one text, by its tokens, and sentences a second.

    With an `error` there is nothing else.
    """

    plan: Plan
    latency: dict[int, float]
    throughput: float
    error: str | None = None

    @property
    def mean_latency(self) -> float:
        """The geometric mean over the lengths, in seconds."""
        return statistics.geometric_mean(self.latency.values())

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "plan": self.plan._asdict()}


def trials(bundle: Bundle, *, task: str | None = None) -> Iterator[Trial]:
    """Measure every plan there is for a bundle here, one process after the other; yields each as it is done.

    Raises TaskError for a task that does not take plain texts.
    """
    task = task or bundle.task or "none"
    if task not in _TASKS:
        raise TaskError(f"{bundle.path} does {task}; these can be tuned: {', '.join(_TASKS)}")
    for pool in _pools(bundle):
        yield from _measured(bundle, task, pool)


def best(measured: Sequence[Trial], goal: str) -> Trial:
    """The winner. For `latency` the pool that answers one text soonest, and of its batches the fastest.

    Raises UntorchError if no plan ran.
    """
    ran = [trial for trial in measured if trial.error is None]
    if not ran:
        raise UntorchError(f"no plan ran here: {'; '.join(str(trial.error) for trial in measured) or 'there is none'}")
    if goal == "latency":
        soonest = min(trial.mean_latency for trial in ran)
        ran = [trial for trial in ran if trial.mean_latency == soonest]
    return max(ran, key=lambda trial: trial.throughput)


def _pools(bundle: Bundle) -> Iterator[Plan]:
    """One plan for every session that has to be opened; how its batches are made is tried on the open session."""
    cores = usable_cores()
    devices = {device: unavailable(bundle, device) for device in _devices()}
    for precision, variant in bundle.variants.items():
        if not variant.trusted:
            continue
        for device, not_here in devices.items():
            if precision not in not_here:
                for threads in sorted({1, cores}, reverse=True) if device.is_cpu else (cores,):
                    yield Plan(precision, str(device), threads, 1, _sizes(device)[0])


def _devices() -> list[Device]:
    """The CPU, and what else works here."""
    found = [Device("cpu")]
    for name in ("auto", "openvino"):
        try:
            found.append(resolve_device(name))
        except (DeviceError, DependencyError):
            continue
    return list(dict.fromkeys(found))


def _sizes(device: Device) -> tuple[int, ...]:
    return MAX_TOKENS.get(device.kind, MAX_TOKENS["cpu"])


def _batchings(pool: Plan) -> Iterator[Plan]:
    """The plans of one pool. Where operators have one thread each, only several batches at once use all cores."""
    device = Device(pool.device)
    cores = 1 if device.is_gpu else usable_cores()
    for callers in sorted({cores if pool.threads == 1 else 1, cores}):
        for max_tokens in _sizes(device):
            yield pool._replace(callers=callers, max_tokens=max_tokens)


def _measured(bundle: Bundle, task: str, pool: Plan) -> Iterator[Trial]:
    job = json.dumps({"folder": str(bundle.path), "task": task, "pool": pool._asdict()})
    command = [sys.executable, "-m", "untorch.tools.tuning", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        found = {"error": f"it took more than {_TIMEOUT} s"}
    except (IndexError, ValueError):
        found = {"error": f"its process ended with code {done.returncode}"}
    if "error" in found:
        yield Trial(pool, {}, 0.0, found["error"])
        return
    latency = {int(tokens): seconds for tokens, seconds in found["latency"].items()}
    for plan, throughput in zip(_batchings(pool), found["throughput"], strict=True):
        yield Trial(plan, latency, throughput)


def _child(folder: Path, task: str, pool: Plan) -> dict[str, Any]:
    """What the process of one pool does."""
    from untorch.pipelines import pipeline

    run = pipeline(task, folder, device=pool.device, precision=pool.precision, threads=pool.threads)
    limit = ModelConfig.load(folder).max_sequence_length or max(LENGTHS)
    latency = {}
    for tokens in sorted({min(length, limit) for length in LENGTHS}):
        texts = [text_of(run.count_tokens, tokens, start) for start in range(8)]
        latency[tokens] = statistics.median(_times(lambda texts=texts: [run([text]) for text in texts])) / len(texts)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(20), 0.7, _SENTENCES), 4, min(limit, max(LENGTHS))).astype(int)
    sentences = [text_of(run.count_tokens, int(length), number) for number, length in enumerate(lengths)]
    rates: list[list[float]] = []
    for _ in range(_ROUNDS):
        rates.append([])
        for plan in _batchings(pool):
            run.model.plan = plan
            rates[-1].append(_rate(run, sentences))
    return {"latency": latency, "throughput": np.max(rates, axis=0).tolist()}


def _times(call: Any) -> list[float]:
    """Seconds of each call, after one to warm up, until time is up."""
    call()
    times: list[float] = []
    end = time.perf_counter() + _LATENCY_SECONDS
    while (start := time.perf_counter()) < end or not times:
        call()
        times.append(time.perf_counter() - start)
    return times


def _rate(run: Any, sentences: list[str]) -> float:
    """Sentences a second; as many of them in one call as fit into the time, so that they can be sorted."""
    run(sentences[:_PROBE])
    start = time.perf_counter()
    run(sentences[:_PROBE])
    fitting = int(_THROUGHPUT_SECONDS / (time.perf_counter() - start)) * _PROBE
    count = min(max(fitting, _PROBE), len(sentences))
    start = time.perf_counter()
    run(sentences[:count])
    return count / (time.perf_counter() - start)


def main(argument: str) -> None:
    """Measure one pool and print what was found as JSON."""
    job = json.loads(argument)
    try:
        found = _child(Path(job["folder"]), job["task"], Plan.from_json(job["pool"]))
    except Exception as error:  # whatever goes wrong is the plan's result
        found = {"error": f"{type(error).__name__}: {first_line(error)}"}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
