"""One token after another: the likeliest, or one drawn by its probability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from untorch.generation.config import GenerationConfig
from untorch.generation.processors import Processor
from untorch.generation.stopping import Stopping
from untorch.numerics import Array, softmax


class State(Protocol):
    """A model in the middle of a text: what it has read is in its cache."""

    def read(self, ids: Array) -> Array:
        """Read the next ids (rows, tokens); scores of the token after them (rows, vocabulary), fp32."""
        ...

    def repeat(self, times: int) -> None:
        """Every row `times` times in a row."""
        ...

    def reorder(self, rows: Array) -> None:
        """Row i becomes what row `rows[i]` was; only rows of one text trade places."""
        ...


def sample(
    state: State,
    ids: Array,
    config: GenerationConfig,
    processors: Sequence[Processor],
    stopping: Stopping,
    generator: np.random.Generator,
) -> Iterator[Array]:
    """Yield the next tokens (rows,) until every row is finished; a finished row's are `pad_token_id`.

    `ids` (texts, length) are the prompts; there are `num_return_sequences` rows a text.
    """
    scores = state.read(ids)
    if config.num_return_sequences > 1:
        state.repeat(config.num_return_sequences)
        scores, ids = (array.repeat(config.num_return_sequences, 0) for array in (scores, ids))
    rows, length = ids.shape
    history = np.empty((rows, config.max_length), dtype=np.int64)
    history[:, :length] = ids
    running = np.ones(rows, dtype=bool)
    ends = bool(config.eos_tokens())
    while True:
        for process in processors:
            scores = process(history[:, :length], scores)
        tokens = draw(scores, generator) if config.do_sample else scores.argmax(-1)
        if ends:
            tokens[~running] = config.pad_token_id
        history[:, length] = tokens
        length += 1
        yield tokens
        running &= ~stopping(history[:, :length])
        if not running.any():
            return
        scores = state.read(tokens[:, None])


def draw(scores: Array, generator: np.random.Generator) -> Array:
    """One token a row (rows,), each with the probability that softmax gives its score (rows, vocabulary)."""
    summed = softmax(scores.astype(np.float64)).cumsum(-1)
    points = generator.random(len(summed)) * summed[:, -1]
    # Never a token of probability zero: the first whose sum is beyond the point, and none after the sum is complete.
    return np.array(
        [
            min(np.searchsorted(row, point, "right"), np.searchsorted(row, row[-1], "left"))
            for row, point in zip(summed, points, strict=True)
        ],
        dtype=np.int64,
    )


def draw_several(scores: Array, count: int, generator: np.random.Generator) -> Array:
    """`count` different indices a row (rows, count), drawn one after the other without putting any back."""
    # Adding Gumbel noise and taking the best draws without replacement, in order.
    return np.argsort(-(scores + generator.gumbel(size=scores.shape)), axis=-1, kind="stable")[:, :count]
