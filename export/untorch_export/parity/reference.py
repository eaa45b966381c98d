"""The reference: batches that the exporter never saw, and PyTorch's outputs for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from untorch.bundle.golden import Case, save
from untorch_export.answers import Arrays
from untorch_export.checkpoint.inputs import encode, least_tokens, random_rows
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.parity.texts import GOLDEN_TEXTS
from untorch_export.trace.heads import hidden_states

# (inputs, tokens) of the random batches: each size with short and with longer rows, and each length with one row and
# with several. What a row's neighbours do to it shows in short rows as it does in long ones, and costs less there. The
# long row that is alone is the one at the model's limit.
SHAPES = ((1, 1), (7, 1), (1, 2), (32, 2), (2, 3), (7, 17), (1, 17), (2, 128))
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
    """Ragged batches of random ids: SHAPES, as far as the model takes them, and a single row at its limit."""
    limit = min(checkpoint.limit or LONGEST, LONGEST)
    least = least_tokens(checkpoint.model, checkpoint.task)
    shapes = [(size, length) for size, length in SHAPES if least <= length < limit] + [(1, limit)]
    generator = np.random.default_rng(0)
    for size, length in shapes:
        yield Batch(f"random {size}x{length}", random_rows(checkpoint, names, size, length, generator))


def any_mask(checkpoint: Checkpoint, names: Sequence[str]) -> Batch:
    """Four rows of random ids whose masks are: all tokens, padding on the left, every other token, no token at all."""
    length = min(checkpoint.limit or 16, 16)
    arrays = random_rows(checkpoint, names, 4, length, np.random.default_rng(1), ragged=False)
    mask = np.ones((4, length), np.int64)
    mask[1, : length // 2] = mask[2, ::2] = mask[3] = 0
    if "attention_mask" in arrays:
        arrays["attention_mask"] = np.resize(mask, arrays["attention_mask"].shape)
    return Batch("any mask", arrays)


def write_golden(checkpoint: Checkpoint, reference: Reference, names: Sequence[str], path: Path) -> list[Case]:
    """Write `golden.npz`: single texts, a ragged batch of them, and a few random ids. Returns the cases.

    Where outputs have a value for every position nothing is padded: what a model says of padding means nothing, and
    reduced precisions say something else.
    """
    padded = not any(checkpoint.answer.per_token(name) for name in checkpoint.task.outputs)
    batches: list[tuple[Arrays, list[str] | None]] = []
    if checkpoint.tokenizer is not None and least_tokens(checkpoint.model, checkpoint.task) == 1:
        groups = [[text] for text in GOLDEN_TEXTS]
        if padded and checkpoint.tokenizer.pad_token is not None:
            groups.append(list(GOLDEN_TEXTS))
        batches += [(encode(checkpoint, names, texts, None), texts) for texts in groups]
    batches.append((random_rows(checkpoint, names, 2, 5, np.random.default_rng(1), ragged=padded), None))
    cases = []
    for inputs, texts in batches:
        outputs = reference(inputs)
        cases.append(Case(inputs, {name: outputs[name] for name in checkpoint.task.outputs}, texts))
    save(path, cases)
    return cases
