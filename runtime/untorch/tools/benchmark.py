"""How fast a bundle is on this machine, beside the other engines installed here; each in a process of its own.

It knows nothing of models: an engine is a function from a list of texts to answers. Run as a module it is one of
those processes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.errors import InputError, TaskError, first_line
from untorch.loading.choice import unavailable

# Tasks that take plain texts, and the classes with which Optimum reads their graphs.
_OPTIMUM_CLASSES = {
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "feature-extraction": "ORTModelForFeatureExtraction",
    "sentence-embeddings": "ORTModelForFeatureExtraction",
}
LENGTHS = (16, 32, 128)
_STORY = (
    "the story of a small town by the river where people work and talk about the weather every day is long and good "
    "but in the end some of them leave for the city to find new friends and a better life with more light and music"
)
_WORDS = _STORY.split()
_PLAIN_BATCH = 32
_TIMEOUT = 900

Answer = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Engine:
    """What is measured: `untorch` in one precision, `onnxruntime` (a plain session), `optimum` or `transformers`."""

    kind: str
    precision: str
    folder: str

    @property
    def name(self) -> str:
        """Kind and precision."""
        return f"{self.kind} {self.precision}"


@dataclass(frozen=True)
class Measurement:
    """What one engine did.

    `start` is the seconds from process start to the first answer; `peak` the most resident bytes at the end, None
    where the system does not say; `latency` the seconds of every call with one text, by its tokens (lengths over the
    model's limit are left out); `throughput` texts
    a second over sentences in one call. With an `error` there is nothing else.
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


def engines(bundle: Bundle, checkpoint: str | os.PathLike[str] | None = None) -> list[Engine]:
    """What can be measured: every variant that this CPU can run, plain ONNX Runtime, and Optimum and transformers.

    Of the last two what is installed; transformers needs the PyTorch `checkpoint` the bundle was made from.
    """
    folder = str(bundle.path)
    not_here = unavailable(bundle, "cpu")
    found = [Engine("untorch", precision, folder) for precision in bundle.variants if precision not in not_here]
    if "fp32" in bundle.variants:
        found.append(Engine("onnxruntime", "fp32", folder))
        if _installed("optimum.onnxruntime") and _installed("torch"):
            found.append(Engine("optimum", "fp32", folder))
    if checkpoint is not None:
        if not (_installed("transformers") and _installed("torch")):
            raise InputError("a checkpoint can only be measured where transformers and torch are installed")
        found.append(Engine("transformers", "fp32", os.fspath(checkpoint)))
    return found


def benchmark(
    bundle: Bundle,
    *,
    task: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    calls: int = 200,
    texts: int = 512,
) -> Iterator[Measurement]:
    """Measure one engine after the other, never two at once; yields each as it is done.

    `calls` is the number of calls with one text a length, `texts` how many are answered in one call for throughput. An
    engine that fails gives a Measurement with its error. Raises TaskError for a task that does not take plain texts,
    InputError for a checkpoint that cannot be measured here.
    """
    task = task or bundle.task or "none"
    if task not in _OPTIMUM_CLASSES:
        raise TaskError(f"{bundle.path} does {task}; these can be measured: {', '.join(_OPTIMUM_CLASSES)}")
    if min(calls, texts) < 1:
        raise InputError("calls and texts are numbers from 1")
    for engine in engines(bundle, checkpoint):
        yield _measured(engine, task, calls, texts)


def text_of(count: Callable[[str], int], tokens: int, start: int = 0) -> str:
    """A text of at most `tokens` tokens, as near as whole words come; `start` says with which word it begins."""
    words: list[str] = []
    while True:
        longer = [*words, _WORDS[(start + len(words)) % len(_WORDS)]]
        if count(" ".join(longer)) > tokens:
            return " ".join(words or longer)
        words = longer


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # the parent package is not there
        return False


def _measured(engine: Engine, task: str, calls: int, texts: int) -> Measurement:
    job = {"engine": asdict(engine), "task": task, "calls": calls, "texts": texts}
    command = [sys.executable, "-m", "untorch.tools.benchmark", json.dumps(job)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            first = time.perf_counter() - start
            rest, _ = process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            return Measurement(engine.name, error=f"it took more than {_TIMEOUT} s")
    try:
        found = json.loads(rest.splitlines()[-1])
    except (IndexError, ValueError):
        return Measurement(engine.name, error=f"its process ended with code {process.returncode}")
    if "error" in found:
        return Measurement(engine.name, error=found["error"])
    latency = {int(tokens): samples for tokens, samples in found["latency"].items()}
    return Measurement(engine.name, first, found["peak"], latency, found["throughput"])


def _child(job: dict[str, Any]) -> dict[str, Any]:
    """One engine's work, in its own process. The first answer is announced as soon as it is there."""
    engine = Engine(**job["engine"])
    answer = _load(engine, job["task"])
    answer([" ".join(_WORDS[:10])])
    print("ready", flush=True)
    count = _counter(Path(engine.folder))
    latency: dict[int, list[float]] = {}
    limit = ModelConfig.load(Path(engine.folder)).max_sequence_length or LENGTHS[-1]
    for tokens in (length for length in LENGTHS if length <= limit):
        given = [text_of(count, tokens, start) for start in range(8)]
        for number in range(3 + job["calls"] // 10):
            answer([given[number % len(given)]])
        latency[tokens] = [_seconds(answer, [given[number % len(given)]]) for number in range(job["calls"])]
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(20), 0.7, job["texts"]), 4, min(limit, LENGTHS[-1])).astype(int)
    sentences = [text_of(count, int(length), number) for number, length in enumerate(lengths)]
    answer(sentences[:_PLAIN_BATCH])
    return {
        "latency": latency,
        "throughput": len(sentences) / _seconds(answer, sentences),
        "peak": _peak_memory(),
    }


def _seconds(answer: Answer, texts: list[str]) -> float:
    start = time.perf_counter()
    answer(texts)
    return time.perf_counter() - start


def _load(engine: Engine, task: str) -> Answer:
    if engine.kind == "untorch":
        from untorch.pipelines import pipeline

        return pipeline(task, engine.folder, device="cpu", precision=engine.precision)
    if engine.kind == "onnxruntime":
        return _plain_session(Bundle(engine.folder))
    # By name, because the runtime must never need these; where they are installed they are only compared with.
    transformers = importlib.import_module("transformers")
    model: Any = engine.folder
    if engine.kind == "optimum":
        graph = Path(Bundle(engine.folder).variant("fp32").graphs["model"].file)
        model_class = getattr(importlib.import_module("optimum.onnxruntime"), _OPTIMUM_CLASSES[task])
        model = model_class.from_pretrained(engine.folder, subfolder=str(graph.parent), file_name=graph.name)
    kind = "feature-extraction" if task == "sentence-embeddings" else task
    tokenizer = transformers.AutoTokenizer.from_pretrained(engine.folder)
    run = transformers.pipeline(kind, model=model, tokenizer=tokenizer, device="cpu")
    return lambda texts: run(texts, batch_size=min(_PLAIN_BATCH, len(texts)))


def _plain_session(bundle: Bundle) -> Answer:
    """ONNX Runtime as it comes: default options, batches in the order of the texts, padded to their longest."""
    from untorch.ort.devices import onnxruntime
    from untorch.tokenizer import AutoTokenizer

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


def main(arguments: Sequence[str]) -> None:
    """What the process of one engine does: announce the first answer, then print everything as JSON."""
    try:
        found = _child(json.loads(arguments[0]))
    except Exception as error:  # whatever an engine raises is its result
        print("failed")
        found = {"error": f"{type(error).__name__}: {first_line(error)}"}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
