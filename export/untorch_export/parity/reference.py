"""The reference: batches that the exporter never saw, and PyTorch's outputs for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch.bundle.golden import Case, save
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.parity.texts import GOLDEN_TEXTS
from untorch_export.trace.heads import hidden_states
from untorch_export.trace.marks import least_tokens, place_marks

Arrays = dict[str, NDArray[Any]]

# How a text goes on, where the task is to choose.
CHOICES = ("It was better than expected.", "Nobody knows.", "He opened the door, and the rain came in.")

BATCHES = (1, 2, 7, 32)
LENGTHS = (1, 2, 3, 17, 128)
# At the model's limit a batch of 32 takes minutes and shows nothing that a batch of 2 does not.
LIMIT_BATCHES = (1, 2)
# Models without a position table, or with a very long one, are tried to here.
LONGEST = 2048


@dataclass(frozen=True)
class Batch:
    """Inputs of one run, and a name by which a report can point to it."""

    name: str
    inputs: Arrays


class Reference:
    """The PyTorch model of a checkpoint, called with numpy arrays. Use it as a context."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._hidden = hidden_states(checkpoint.model, checkpoint.task)

    def __enter__(self) -> Reference:
        self._hidden.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hidden.__exit__(kind, error, trace)

    def __call__(self, inputs: Arrays) -> Arrays:
        """The outputs `task.graph_outputs` for a batch, in fp32."""
        import torch

        with torch.inference_mode():
            outputs = self._checkpoint.model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: outputs[name].numpy() for name in self._checkpoint.task.graph_outputs}


def grid(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[Batch]:
    """Ragged batches of random ids: every size in BATCHES by every length in LENGTHS, and the model's limit."""
    limit = min(checkpoint.limit or LONGEST, LONGEST)
    least = least_tokens(checkpoint.model, checkpoint.task)
    shapes = [(size, length) for length in LENGTHS if least <= length < limit for size in BATCHES]
    shapes += [(size, limit) for size in LIMIT_BATCHES]
    generator = np.random.default_rng(0)
    for size, length in shapes:
        yield Batch(f"random {size}x{length}", _random(checkpoint, names, size, length, generator))


def any_mask(checkpoint: Checkpoint, names: Sequence[str]) -> Batch:
    """Four rows of random ids whose masks are: all tokens, padding on the left, every other token, no token at all."""
    length = min(checkpoint.limit or 16, 16)
    arrays = _random(checkpoint, names, 4, length, np.random.default_rng(1), ragged=False)
    mask = np.ones((4, length), np.int64)
    mask[1, : length // 2] = mask[2, ::2] = mask[3] = 0
    masked = np.resize(mask, arrays["attention_mask"].shape)
    return Batch("any mask", {**arrays, "attention_mask": masked})


def _random(
    checkpoint: Checkpoint,
    names: Sequence[str],
    size: int,
    length: int,
    generator: np.random.Generator,
    *,
    ragged: bool = True,
) -> Arrays:
    """One batch, (size, length). Where it is ragged, the first row is full and the others end where chance says."""
    if checkpoint.task.answer == "choice":
        size *= len(CHOICES)
    pad = checkpoint.pad_token_id
    vocabulary = int(checkpoint.config["vocab_size"])
    ids = generator.integers(0, vocabulary - 1, (size, length))
    ids[ids >= pad] += 1  # any id but the padding's, which some models take for a position that is not there
    least = least_tokens(checkpoint.model, checkpoint.task) if ragged else length
    lengths = generator.integers(least, length + 1, size)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    segments = (np.arange(length) >= (lengths[:, None] + 1) // 2) * mask
    if checkpoint.config.get("type_vocab_size") == 1:
        segments[:] = 0
    place_marks(checkpoint.model, checkpoint.task, ids, lengths, spare_id(checkpoint))
    arrays = {"input_ids": np.where(mask, ids, pad), "attention_mask": mask, "token_type_ids": segments}
    return {name: _shaped(checkpoint, arrays[name]) for name in names}


def spare_id(checkpoint: Checkpoint) -> int:
    """An id of an ordinary token."""
    marks = {checkpoint.config.get(f"{role}_token_id") for role in ("bos", "eos", "sep", "cls", "unk")}
    return next(
        index for index in range(int(checkpoint.config["vocab_size"])) if index not in marks | {checkpoint.pad_token_id}
    )


def _shaped(checkpoint: Checkpoint, rows: NDArray[Any]) -> NDArray[Any]:
    """Rows as the graph takes them: (rows, length), or (rows / choices, choices, length)."""
    shape = (-1, len(CHOICES), rows.shape[-1]) if checkpoint.task.answer == "choice" else rows.shape
    return rows.reshape(shape).astype(np.int64)


def encode(checkpoint: Checkpoint, names: Sequence[str], texts: Sequence[Any], pairs: Sequence[str] | None) -> Arrays:
    """Texts, or pairs of texts, as one padded batch, cut at the model's limit; where one is chosen, CHOICES a text."""
    assert checkpoint.tokenizer is not None
    if checkpoint.task.answer == "choice":
        texts, pairs = [text for text in texts for _ in CHOICES], list(CHOICES) * len(texts)
    encoded = checkpoint.tokenizer(
        list(texts),
        list(pairs) if pairs is not None else None,
        padding=len(texts) > 1,
        padding_side="right",  # where a decoder's tokenizer pads left for generating, its heads' positions would shift
        truncation=checkpoint.limit is not None,
        max_length=checkpoint.limit,
        return_tensors="np",
    )
    blank = np.zeros_like(encoded["input_ids"])
    return {name: _shaped(checkpoint, encoded.get(name, blank)) for name in names}


def write_golden(checkpoint: Checkpoint, reference: Reference, names: Sequence[str], path: Path) -> list[Case]:
    """Write `golden.npz`: single texts, a ragged batch of them, and a few random ids. Returns the cases.

    Where outputs have a value for every position nothing is padded: what a model says of padding means nothing, and
    reduced precisions say something else.
    """
    padded = not any(checkpoint.task.per_token(name) for name in checkpoint.task.outputs)
    batches: list[tuple[Arrays, list[str] | None]] = []
    if checkpoint.tokenizer is not None and least_tokens(checkpoint.model, checkpoint.task) == 1:
        groups = [[text] for text in GOLDEN_TEXTS]
        if padded and checkpoint.tokenizer.pad_token is not None:
            groups.append(list(GOLDEN_TEXTS))
        batches += [(encode(checkpoint, names, texts, None), texts) for texts in groups]
    batches.append((_random(checkpoint, names, 2, 5, np.random.default_rng(1), ragged=padded), None))
    cases = []
    for inputs, texts in batches:
        outputs = reference(inputs)
        cases.append(Case(inputs, {name: outputs[name] for name in checkpoint.task.outputs}, texts))
    save(path, cases)
    return cases
