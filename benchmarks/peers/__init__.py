"""Every engine that takes part, one file each, imported only inside its own process and environment.

A file has `PEERS`, what it offers, and `load(peer, model)`, which returns an `Engine`. Nothing heavy is imported
before `load`, so that the list can be read anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

THREADS = 2
CLASSIFICATION, EMBEDDING = "text-classification", "sentence-embeddings"

_FILES = (
    "untorch_runtime",
    "torch_transformers",
    "optimum_onnx",
    "openvino_optimum",
    "ctranslate2_encoder",
    "sentence_transformer",
    "fastembed_onnx",
)


@dataclass(frozen=True)
class Peer:
    """One engine in one precision, and how it was set up to be at its best.

    `precision` is that of the matrix products. `left_out` gives a reason for every workload that it does not run.
    """

    name: str
    label: str
    environment: str
    precision: str
    tasks: tuple[str, ...]
    settings: str
    module: str = ""
    left_out: tuple[tuple[str, str], ...] = ()
    models: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether this is untorch itself."""
        return self.name.startswith("untorch")


@dataclass(frozen=True)
class Model:
    """A model built for every engine: `folder` holds one folder an engine."""

    name: str
    task: str
    folder: Path


@dataclass
class Engine:
    """A loaded engine: `call` on a list of texts gives (label, score) pairs, or vectors of shape (texts, hidden).

    `alone` answers one text and may be called by many threads at once; without it, callers share `call` under a lock.
    `extra` holds what only one engine has.
    """

    call: Callable[[Sequence[str]], Any]
    alone: Callable[[str], Any] | None = None
    extra: Any = None


def peers() -> list[Peer]:
    """Every peer, untorch first."""
    return [peer for name in _FILES for peer in import_module(f"benchmarks.peers.{name}").PEERS]


def load(peer: Peer, model: Model) -> Engine:
    """Load a model in this process. Raises whatever the engine raises."""
    return import_module(f"benchmarks.peers.{peer.module}").load(peer, model)


def batches(texts: Sequence[str], size: int) -> list[list[int]]:
    """Row numbers in batches of at most `size`, shortest texts first, so that a batch has little padding."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def in_order(texts: Sequence[str], size: int, run: Callable[[list[str]], Sequence[Any]]) -> list[Any]:
    """Run length-sorted batches and put the answers back in the order of the texts."""
    answers: list[Any] = [None] * len(texts)
    for rows in batches(texts, size):
        for row, answer in zip(rows, run([texts[row] for row in rows]), strict=True):
            answers[row] = answer
    return answers
