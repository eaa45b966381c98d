"""How fast a bundle is on this machine, beside other engines; each is measured in a process of its own.

This module knows nothing of models. An engine is a function `load(folder, task)`, given a bundle's folder and a task,
that returns a function from a list of texts to their answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.errors import InputError, TaskError
from untorch.loading.choice import unavailable
from untorch.tools.processes import Child, ChildError
from untorch.tools.texts import FIRST, sentences, text_of

TASKS = ("text-classification", "token-classification", "feature-extraction", "sentence-embeddings")
LENGTHS = (16, 32, 128)
_PLAIN_BATCH = 32
_TIMEOUT = 900

Answer = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Engine:
    """What is measured: a name to show, and what its process loads.

    `load` is "module:function", or None for untorch itself, which then runs the variant `precision`.
    """

    name: str
    precision: str | None = None
    load: str | None = None


@dataclass(frozen=True)
class Measurement:
    """What one engine did.

    `start` is the seconds from process start to the first answer; `peak` the most resident bytes at the end, None
    where the system does not say; `latency` the seconds of every call with one text, by its tokens (lengths over the
    model's limit are left out); `throughput` texts a second over sentences in one call. With an `error` there is
    nothing else.
    """

    engine: str
    start: float = 0.0
    peak: int | None = None
    latency: dict[int, list[float]] | None = None
    throughput: float = 0.0
    error: str | None = None

    def percentile(self, tokens: int, percent: float) -> float:
        """A percentile of the latency in seconds."""
        return float(np.percentile((self.latency or {})[tokens], percent))

    def to_json(self) -> dict[str, Any]:
        """As plain data, every sample included."""
        return asdict(self)


def engines(bundle: Bundle, others: Sequence[str] = ()) -> list[Engine]:
    """What is measured: each variant that this CPU can run, ONNX Runtime as it comes, and `others`, "module:function".

    Raises InputError for one of `others` that is not written so.
    """
    if wrong := [name for name in others if not all(name.partition(":"))]:
        raise InputError(f"{wrong[0]!r} names no engine; write MODULE:FUNCTION, as in my_engines:transformers")
    not_here = unavailable(bundle, "cpu")
    found = [Engine(f"untorch {precision}", precision) for precision in bundle.variants if precision not in not_here]
    if "fp32" in bundle.variants:
        found.append(Engine("onnxruntime fp32", load=f"{__name__}:plain_session"))
    return found + [Engine(name, load=name) for name in others]


def benchmark(
    bundle: Bundle, *, task: str | None = None, others: Sequence[str] = (), calls: int = 200, texts: int = 512
) -> Iterator[Measurement]:
    """Measure one engine after the other, never two at once; yields each as it is done.

    `calls` is the number of calls with one text a length, `texts` how many are answered in one call for throughput,
    `others` are engines as `engines` takes them. An engine that fails gives a Measurement with its error. Raises
    TaskError for a task that does not take plain texts, InputError for arguments that cannot be.
    """
    task = task or bundle.task or "none"
    if task not in TASKS:
        raise TaskError(f"{bundle.path} does {task}; these can be measured: {', '.join(TASKS)}")
    if min(calls, texts) < 1:
        raise InputError("calls and texts are numbers from 1")
    for engine in engines(bundle, others):
        job = {"engine": asdict(engine), "folder": str(bundle.path), "task": task, "calls": calls, "texts": texts}
        yield _measured(engine, job)


def _measured(engine: Engine, job: dict[str, Any]) -> Measurement:
    start = time.perf_counter()
    with Child(f"{__name__}:measure") as child:
        try:
            results = child.ask(job, timeout=_TIMEOUT)
            next(results)
            first = time.perf_counter() - start
            [found] = results
        except ChildError as error:
            return Measurement(engine.name, error=str(error))
    latency = {int(tokens): samples for tokens, samples in found["latency"].items()}
    return Measurement(engine.name, first, found["peak"], latency, found["throughput"])


def measure(job: dict[str, Any]) -> Iterator[Any]:
    """Measure one engine; called in its process. The first result says that the first answer is there."""
    engine, folder = Engine(**job["engine"]), Path(job["folder"])
    answer = _load(engine, str(folder), job["task"])
    answer([FIRST])
    yield "ready"
    count = _counter(folder)
    limit = ModelConfig.load(folder).max_sequence_length or LENGTHS[-1]
    latency: dict[int, list[float]] = {}
    for tokens in (length for length in LENGTHS if length <= limit):
        given = [text_of(count, tokens, start) for start in range(8)]
        for number in range(3 + job["calls"] // 10):
            answer([given[number % len(given)]])
        latency[tokens] = [_seconds(answer, [given[number % len(given)]]) for number in range(job["calls"])]
    texts = sentences(count, job["texts"], min(limit, LENGTHS[-1]))
    answer(texts[:_PLAIN_BATCH])
    yield {
        "latency": latency,
        "throughput": len(texts) / _seconds(answer, texts),
        "peak": _peak_memory(),
    }


def plain_session(folder: str, _task: str) -> Answer:
    """ONNX Runtime as it comes: default options, batches in the order of the texts, padded to their longest."""
    from untorch.ort.devices import onnxruntime
    from untorch.tokenizer import AutoTokenizer

    bundle = Bundle(folder)
    graph = bundle.file(bundle.variant("fp32").graphs["model"].file)
    session = onnxruntime().InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    tokenizer = AutoTokenizer.from_pretrained(bundle.path)

    def answer(texts: list[str]) -> list[Any]:
        outputs = []
        for start in range(0, len(texts), _PLAIN_BATCH):
            batch = tokenizer(texts[start : start + _PLAIN_BATCH], padding=True, return_tensors="np")
            feeds = {name: np.asarray(batch[name], np.int64) for name in wanted}
            outputs.append(session.run(None, feeds))
        return outputs

    return answer


def _load(engine: Engine, folder: str, task: str) -> Answer:
    if engine.load is None:
        from untorch.pipelines import pipeline

        return pipeline(task, folder, device="cpu", precision=engine.precision or "auto")
    module, _, name = engine.load.partition(":")
    answer: Answer = getattr(import_module(module), name)(folder, task)
    return answer


def _seconds(answer: Answer, texts: list[str]) -> float:
    start = time.perf_counter()
    answer(texts)
    return time.perf_counter() - start


def _counter(folder: Path) -> Callable[[str], int]:
    from untorch.tokenizer import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: len(tokenizer.encode_ids([text])[0])


def _peak_memory() -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak.split()[1]) * 1024
