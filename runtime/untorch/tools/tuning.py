"""Which plan is fastest for a bundle on this machine: every plan is measured.

Plans that share a session (a precision, a device, a number of threads) are measured in one process, one process after
the other. Only variants inside their gate take part. Nothing is tuned unless it is asked for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.errors import DependencyError, DeviceError, TaskError, UntorchError
from untorch.loading.choice import unavailable
from untorch.loading.plans import Plan
from untorch.ort.devices import Device, usable_cores
from untorch.ort.providers import resolve_device
from untorch.tools.benchmark import TASKS
from untorch.tools.processes import Child, ChildError
from untorch.tools.texts import sentences, text_of

# Tokens of the single texts that are tried, and of a batch of sentences.
LENGTHS = (16, 128)
MAX_TOKENS = {"cpu": (80, 160, 320, 640), "cuda": (4096, 16384, 65536)}
GOALS = ("latency", "throughput")

# Seconds for each length, and for each way of making batches in each round. More than one round, so that a moment in
# which the machine is busy does not decide. With three variants on two cores all takes three quarters of a minute.
_LATENCY_SECONDS, _THROUGHPUT_SECONDS, _ROUNDS = 1.2, 0.3, 2
_SENTENCES, _PROBE = 512, 32
_TIMEOUT = 120


@dataclass(frozen=True)
class Trial:
    """The result of one plan: median seconds of a call with one text, by its tokens, and sentences a second.

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
    if task not in TASKS:
        raise TaskError(f"{bundle.path} does {task}; these can be tuned: {', '.join(TASKS)}")
    for pool in pools(bundle):
        yield from measured(bundle, task, pool)


def best(measured: Sequence[Trial], goal: str) -> Trial:
    """The fastest trial for a goal.

    For `throughput` it is the one with the most sentences a second; for `latency` the one with the most sentences a
    second among those whose session answers a single text soonest.

    Raises UntorchError if no plan ran.
    """
    ran = [trial for trial in measured if trial.error is None]
    if not ran:
        raise UntorchError(f"no plan ran here: {'; '.join(str(trial.error) for trial in measured) or 'there is none'}")
    if goal == "latency":
        soonest = min(trial.mean_latency for trial in ran)
        ran = [trial for trial in ran if trial.mean_latency == soonest]
    return max(ran, key=lambda trial: trial.throughput)


def pools(bundle: Bundle) -> Iterator[Plan]:
    """One plan for each session to measure. `_batchings` gives the ways to make batches that are tried on it."""
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
    """The CPU, and each other device that works here."""
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
    """The plans of one pool, each with a number of batches at once (`callers`) and a size of batch (`max_tokens`).

    Where operators run on one thread each, a single batch at once is not tried: it would leave cores idle.
    """
    device = Device(pool.device)
    cores = 1 if device.is_gpu else usable_cores()
    for callers in sorted({cores if pool.threads == 1 else 1, cores}):
        for max_tokens in _sizes(device):
            yield pool._replace(callers=callers, max_tokens=max_tokens)


def measured(bundle: Bundle, task: str, pool: Plan) -> Iterator[Trial]:
    """Measure the plans of one pool in a process of its own; one Trial with the error if that fails."""
    job = {"folder": str(bundle.path), "task": task, "pool": pool._asdict()}
    with Child(f"{__name__}:measure") as child:
        try:
            [found] = child.ask(job, timeout=_TIMEOUT)
        except ChildError as error:
            yield Trial(pool, {}, 0.0, str(error))
            return
    latency = {int(tokens): seconds for tokens, seconds in found["latency"].items()}
    for plan, throughput in zip(_batchings(pool), found["throughput"], strict=True):
        yield Trial(plan, latency, throughput)


def measure(job: dict[str, Any]) -> Iterator[Any]:
    """Measure the plans of one pool on one session; called in a process of its own."""
    from untorch.pipelines import pipeline

    folder, pool = Path(job["folder"]), Plan.from_json(job["pool"])
    run = pipeline(job["task"], folder, device=pool.device, precision=pool.precision, threads=pool.threads)
    limit = ModelConfig.load(folder).max_sequence_length or max(LENGTHS)
    latency = {}
    for tokens in sorted({min(length, limit) for length in LENGTHS}):
        texts = [text_of(run.count_tokens, tokens, start) for start in range(8)]
        latency[tokens] = statistics.median(_times(lambda texts=texts: [run([text]) for text in texts])) / len(texts)
    made = sentences(run.count_tokens, _SENTENCES, min(limit, max(LENGTHS)))
    rates: list[list[float]] = []
    for _ in range(_ROUNDS):
        rates.append([])
        for plan in _batchings(pool):
            run.model.plan = plan
            rates[-1].append(_rate(run, made))
    yield {"latency": latency, "throughput": np.max(rates, axis=0).tolist()}


def _times(call: Any) -> list[float]:
    """Seconds of each call for _LATENCY_SECONDS, after one call to warm up; at least one."""
    call()
    times: list[float] = []
    end = time.perf_counter() + _LATENCY_SECONDS
    while (start := time.perf_counter()) < end or not times:
        call()
        times.append(time.perf_counter() - start)
    return times


def _rate(run: Any, texts: list[str]) -> float:
    """Texts a second. As many of them go into one call as fit into _THROUGHPUT_SECONDS, so that they can be sorted."""
    run(texts[:_PROBE])
    start = time.perf_counter()
    run(texts[:_PROBE])
    fitting = int(_THROUGHPUT_SECONDS / (time.perf_counter() - start)) * _PROBE
    count = min(max(fitting, _PROBE), len(texts))
    start = time.perf_counter()
    run(texts[:count])
    return count / (time.perf_counter() - start)
