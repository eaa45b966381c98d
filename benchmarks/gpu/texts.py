"""Inputs, callers and samples: what is run, how often, and the same work in PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import engines, models
from benchmarks.workloads import Generator, Texts, counter

_clock = time.perf_counter
_rng = np.random.default_rng(0)

# What was done, when it began and when it ended, in seconds.
Span = tuple[str, float, float]

# Settings to try: name, form of the mask, options of the CUDA provider, entries of the session's configuration.
OPTIONS: tuple[tuple[str, str, dict[str, str], dict[str, str]], ...] = (
    ("as it is", "", {}, {}),
    ("gemm auto tune", "", {}, {"ep.cuda.enable_gemm_auto_tune": "1"}),
    ("TF32", "", {"use_tf32": "1"}, {}),
    ("arena doubles", "", {"arena_extend_strategy": "kNextPowerOfTwo"}, {}),
    ("cuDNN's attention", "", {"sdpa_kernel": "8"}, {}),
    ("mask of keys", "keys", {}, {}),
    ("mask as lengths, cuDNN's attention", "lengths", {"sdpa_kernel": "8"}, {}),
    ("no mask, flash attention", "none", {}, {}),
)


def ids(batch: int, length: int, *, ragged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and their mask (batch, length); where they are ragged, rows end where chance says."""
    lengths = _rng.integers(3, length + 1, batch) if ragged else np.full(batch, length)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return np.where(mask, _rng.integers(1000, 30000, (batch, length)), 0), mask


def compare(expected: np.ndarray, got: np.ndarray) -> dict[str, float]:
    """Share of equal decisions, and how far a probability moves at most."""
    want, have = _softmax(expected), _softmax(got)
    # A tie may fall either way.
    same = (want.argmax(-1) == have.argmax(-1)) | (np.abs(want[:, 0] - want[:, 1]) < 0.01)
    moved = float(np.abs(want - have).max())
    return {"agreement": float(same.mean()), "probability": moved if np.isfinite(moved) else 1.0}


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def samples(run: Callable[[], Any], quick: bool) -> list[float]:
    """Seconds of calls after a warm-up: at least 5 calls and 0.15 s, at most 300 calls."""
    for _ in range(3):
        run()
    found: list[float] = []
    end = _clock() + (0.01 if quick else 0.15)
    while len(found) < 5 or (_clock() < end and len(found) < 300):
        start = _clock()
        run()
        found.append(_clock() - start)
    return found


def samples_over(call: Callable[[list[str]], Any], texts: Sequence[str], times: int) -> list[float]:
    """Seconds of calls with one text each, after a warm-up."""
    for text in texts[: min(times, 20)]:
        call([text])
    found = []
    for index in range(times):
        start = _clock()
        call([texts[index % len(texts)]])
        found.append(_clock() - start)
    return found


def latency(bundle: Path, length: int) -> list[str]:
    """Texts of exactly `length` tokens."""
    return Generator(counter(str(bundle / "tokenizer.json"))).latency(length).texts


def sentences(bundle: Path, count: int) -> Texts:
    """Texts with the length distribution of sentences."""
    return Generator(counter(str(bundle / "tokenizer.json"))).sentences(count)


def callers(
    bundle: Path, config: dict[str, Any], device: str, attentions: Sequence[str]
) -> dict[str, Callable[[list[str]], Any]]:
    """Text in, label out, by engine; PyTorch with each of the `attentions`."""
    import untorch

    pipe = untorch.pipeline("text-classification", bundle, device=device, precision="fp16")
    pipe.warmup()
    found: dict[str, Callable[[list[str]], Any]] = {"untorch fp16": pipe}
    for attention in attentions:
        found[f"torch fp16 {attention}"] = torch_labels(bundle, config, device, attention)
    return found


def torch_labels(bundle: Path, config: dict[str, Any], device: str, attention: str) -> Callable[..., Any]:
    """The tokenizer, the model and the argmax, with nothing of a pipeline's around them.

    It also takes a list in which it notes when what was done.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle)
    forward = engines.torch_engine(config, device, attention=attention)

    def call(texts: list[str], spans: list[Span] | None = None) -> list[dict[str, Any]]:
        begin = _clock()
        encoded = tokenizer(texts, padding=True, return_tensors="np", return_token_type_ids=False)
        middle = _clock()
        logits = forward(encoded["input_ids"], encoded["attention_mask"])
        if spans is not None:
            spans += [("tokenize", begin, middle), ("model", middle, _clock())]
        return [{"label": int(row.argmax()), "score": float(row.max())} for row in _softmax(logits)]

    return call


def streams(bundle: Path, config: dict[str, Any], device: str, made: Texts) -> dict[str, Callable[..., Any]]:
    """Many texts in, labels out; each also takes a list in which it notes when what was done."""
    import untorch
    from untorch import batching

    found: dict[str, Callable[..., Any]] = {}
    for precision in ("fp16", *(("fp16_packed",) if device == "cuda" else ())):
        pipe = untorch.pipeline("text-classification", bundle, device=device, precision=precision)
        found[f"untorch {precision}"] = _noted(pipe)
    labels = torch_labels(bundle, config, device, "sdpa")
    known = dict(zip(made.texts, made.tokens, strict=True))

    def torch_stream(texts: list[str], spans: list[Span] | None = None) -> list[Any]:
        # The same sorted batches; it is told the lengths, since it cannot sort by them before it tokenizes.
        lengths = [known[text] for text in texts]
        answers: list[Any] = [None] * len(texts)
        for rows in batching.batches(lengths, None, batching.MAX_TOKENS[device]):
            for row, answer in zip(rows, labels([texts[row] for row in rows], spans), strict=True):
                answers[row] = answer
        return answers

    found["torch fp16 sdpa"] = torch_stream
    return found


def _noted(pipe: Any) -> Callable[..., Any]:
    """The pipeline, noting when it tokenizes, when it makes arrays, and when the model runs."""
    sessions = [session for session in (pipe.model.session, pipe.model.packed) if session]
    # On a GPU inside the queue, where one batch at a time runs; waiting for it is no work of the model's.
    runs = [(one.executor, name) for one in sessions for name in ("run_plain", "replay") if one.device.is_gpu]
    runs = runs or [(pipe.model, "forward")]
    steps = [("tokenize", pipe.tokenizer, "encode_ids"), ("arrays", pipe.tokenizer, "collate")]
    steps += [("model", owner, name) for owner, name in runs]

    def call(texts: list[str], spans: list[Span] | None = None) -> Any:
        if spans is None:
            return pipe(texts)

        def note(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*given: Any, **named: Any) -> Any:
                start = _clock()
                try:
                    return function(*given, **named)
                finally:
                    spans.append((kind, start, _clock()))

            return noted

        for kind, owner, name in steps:
            setattr(owner, name, note(kind, getattr(owner, name)))
        try:
            return pipe(texts)
        finally:
            for _, owner, name in steps:
                delattr(owner, name)

    return call


def first_answers(bundle: Path, config: dict[str, Any], device: str) -> dict[str, str]:
    """Programs that answer one text and end."""
    paths = [str(models.ROOT), str(models.ROOT / "runtime"), str(models.ROOT / "export")]
    before = f"import os, sys; sys.path[:0] = {paths!r}\n"
    after = "\nsys.stdout.flush(); os._exit(0)"
    ours = (
        f"import untorch\nprint(untorch.pipeline('text-classification', {str(bundle)!r}, device={device!r}, "
        "precision='fp16')('a good day'))"
    )
    theirs = (
        f"from pathlib import Path\nfrom benchmarks.gpu import texts\n"
        f"print(texts.torch_labels(Path({str(bundle)!r}), {config!r}, {device!r}, 'sdpa')(['a good day']))"
    )
    return {"untorch fp16": before + ours + after, "torch fp16 sdpa": before + theirs + after}


def with_options(
    bundle: Path, precision: str, device: str, settings: dict[str, str], entries: dict[str, str]
) -> engines.Forward:
    """A graph of the bundle in a plain session with these settings."""
    import onnxruntime

    from untorch.ort import providers

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    chosen: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        chosen.insert(0, ("CUDAExecutionProvider", {**providers.cuda_options("cuda:0"), **settings}))
    session = onnxruntime.InferenceSession(
        str(bundle / "onnx" / f"model_{precision}.onnx"), options, providers=chosen, enable_fallback=0
    )
    return engines.session_engine(session)
