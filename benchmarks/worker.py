"""What the process of one engine with one model does: load it, then measure it and return raw samples.

workers.py starts these processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import EMBEDDING, Engine, Model, load, peers

_clock = time.perf_counter


def resident(peak: bool = False) -> int:
    """Resident memory of this process in bytes, or the most it ever was."""
    key = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def answers(engine: Engine, task: str, texts: list[str]) -> list[Any]:
    """The engine's answers as plain data: for each text [label, score], or a vector."""
    given = engine.call(texts)
    if task == EMBEDDING:
        return [[float(value) for value in vector] for vector in given]
    return [[label, float(score)] for label, score in given]


def latency(engine: Engine, texts: list[str], calls: int) -> list[float]:
    """The seconds of each call with one text, after a few calls to warm up."""
    for number in range(min(5, calls)):
        engine.call([texts[number % len(texts)]])
    samples = []
    for number in range(calls):
        text = [texts[number % len(texts)]]
        start = _clock()
        engine.call(text)
        samples.append(_clock() - start)
    return samples


def throughput(engine: Engine, texts: list[str]) -> float:
    """The seconds of one call with all texts."""
    start = _clock()
    engine.call(texts)
    return _clock() - start


def callers(engine: Engine, texts: list[str], count: int, seconds: float) -> dict[str, Any]:
    """Have `count` threads send one text at a time for `seconds`; the seconds of each call, and those of it all."""
    import threading

    lock = threading.Lock()

    def locked(text: str) -> Any:
        with lock:
            return engine.call([text])

    answer = engine.alone or locked
    answer(texts[0])
    samples: list[list[float]] = [[] for _ in range(count)]
    errors: list[str] = []
    barrier = threading.Barrier(count + 1)

    def caller(number: int) -> None:
        barrier.wait()
        end = _clock() + seconds
        turn = number
        while (start := _clock()) < end:
            try:
                answer(texts[turn % len(texts)])
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
                return
            samples[number].append(_clock() - start)
            turn += count

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = _clock()
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(f"{len(errors)} of {count} callers failed: {errors[0]}")
    return {"seconds": _clock() - start, "samples": [sample for one in samples for sample in one]}


def memory(engine: Engine, texts: list[str], seconds: float, step: int) -> list[list[float]]:
    """[texts answered, resident bytes] after every `step` texts, until all are done or time is up."""
    end = _clock() + seconds
    course = [[0, resident()]]
    for start in range(0, len(texts), step):
        engine.call(texts[start : start + step])
        course.append([min(start + step, len(texts)), resident()])
        if _clock() > end:
            break
    return course


class _Timed:
    """A stand-in for an object that adds up the seconds spent in some of its methods.

    The timed methods are made once and are plain attributes, so that looking one up costs as little as it did before.
    """

    def __init__(self, inner: Any, methods: tuple[str, ...]) -> None:
        self._inner = inner
        self.seconds = 0.0
        for name in methods:
            setattr(self, name, self._clocked(getattr(inner, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _clocked(self, method: Any) -> Any:
        def run(*arguments: Any, **keywords: Any) -> Any:
            start = _clock()
            try:
                return method(*arguments, **keywords)
            finally:
                self.seconds += _clock() - start

        return run


def overhead(engine: Engine, texts: list[str], calls: int) -> dict[str, list[float]]:
    """For untorch: the seconds of each call, and those that ONNX Runtime and the Rust tokenizer took inside it.

    They are timed inside the call, because alone or after it the tokenizer would find other data in the caches.
    """
    pipeline = engine.extra
    session, backend = pipeline.model.session, pipeline.tokenizer._backend
    executor = session.executor
    executor.session = running = _Timed(executor.session, ("run", "run_with_iobinding"))
    backend.tokenizer = tokenizing = _Timed(backend.tokenizer, ("encode_batch_fast", "encode_batch"))
    samples: dict[str, list[float]] = {"whole": [], "session": [], "tokenizer": []}
    for number in range(calls + 20):
        running.seconds = tokenizing.seconds = 0.0
        start = _clock()
        pipeline([texts[number % len(texts)]])
        whole = _clock() - start
        if number >= 20:
            for name, seconds in zip(samples, (whole, running.seconds, tokenizing.seconds), strict=True):
                samples[name].append(seconds)
    if not (any(samples["session"]) and any(samples["tokenizer"])):
        raise RuntimeError("ONNX Runtime or the tokenizer was not seen running, so nothing can be told apart")
    return samples


class Work:
    """The jobs of one process: `load` an engine and a model first, then measure them."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.task = ""

    def __call__(self, job: dict[str, Any]) -> Iterator[Any]:
        """Do one job: its name under `do`, and the arguments of the function of that name here."""
        do = job.pop("do")
        if do == "load":
            yield self._load(**job)
        elif do == "answers":
            yield answers(self.engine, self.task, **job)
        elif do == "memory_now":
            yield {"resident": resident(), "peak": resident(peak=True)}
        else:
            yield _MEASURES[do](self.engine, **job)

    def _load(self, peer: str, model: str, task: str, folder: str, text: str) -> dict[str, Any]:
        """Load, and answer a first text: the seconds that took, the peak memory by then, the label if there is one."""
        start = _clock()
        self.engine = load(next(one for one in peers() if one.name == peer), Model(model, task, Path(folder)))
        self.task = task
        first = answers(self.engine, task, [text])
        label = first[0][0] if task != EMBEDDING else None
        return {"ready": _clock() - start, "peak": resident(peak=True), "first": label}


_MEASURES: dict[str, Callable[..., Any]] = {
    "latency": latency,
    "throughput": throughput,
    "callers": callers,
    "memory": memory,
    "overhead": overhead,
}
