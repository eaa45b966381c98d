"""Beam search, as transformers 4.57 does it: the same beams, scores and stops.

Arrays of beams are (texts, beams, …). A text keeps `num_beams` running beams, and the best `num_beams` finished ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from untorch.generation.config import GenerationConfig
from untorch.generation.processors import Processor
from untorch.generation.sampling import State, draw_several
from untorch.generation.stopping import Stopping
from untorch.numerics import Array, log_softmax

# Stands for minus infinity where scores are still added and compared.
_LOW = np.float32(-1e9)


def search(
    state: State,
    ids: Array,
    config: GenerationConfig,
    processors: Sequence[Processor],
    stopping: Stopping,
    generator: np.random.Generator,
) -> Array:
    """The best sequences (texts × num_return_sequences, length) for prompts `ids` (texts, length), prompt included.

    Shorter ones are padded on the right with `pad_token_id`.
    """
    beams = _Beams(ids, config)
    scores = state.read(ids)
    state.repeat(config.num_beams)
    scores = scores.repeat(config.num_beams, 0)
    while True:
        flat = beams.running_ids()
        scores = log_softmax(scores)
        for process in processors:
            scores = process(flat, scores)
        order = beams.advance(scores, stopping, generator)
        if beams.done:
            return beams.best()
        state.reorder(order)
        scores = state.read(beams.running_ids()[:, -1:])


class _Beams:
    """Running and finished beams of every text."""

    def __init__(self, ids: Array, config: GenerationConfig) -> None:
        self._config = config
        self._prompt = self._length = ids.shape[1]
        texts, beams = len(ids), config.num_beams
        # More candidates than beams, so that enough are left to run when some of them end.
        self._candidates = max(2, 1 + len(config.eos_tokens())) * beams
        fill = -1 if not config.eos_tokens() else config.pad_token_id or config.eos_tokens()[0]
        self._running = np.full((texts, beams, config.max_length), fill, dtype=np.int64)
        self._running[:, :, : self._length] = ids[:, None]
        self._finished = self._running.copy()
        # All beams begin alike, so only the first may be continued at first.
        self._running_scores = np.zeros((texts, beams), dtype=np.float32)
        self._running_scores[:, 1:] = _LOW
        self._finished_scores = np.full((texts, beams), _LOW, dtype=np.float32)
        self._finished_lengths = np.zeros((texts, beams), dtype=np.int64)
        self._is_finished = np.zeros((texts, beams), dtype=bool)
        self._can_improve = np.ones((texts, 1), dtype=bool)
        self.done = False

    def running_ids(self) -> Array:
        """The ids of the running beams (texts × beams, length)."""
        return self._running[:, :, : self._length].reshape(-1, self._length)

    def advance(self, scores: Array, stopping: Stopping, generator: np.random.Generator) -> Array:
        """Take the log-probabilities of the next token (texts × beams, vocabulary).

        Returns for every running beam the row that it continues (texts × beams,).
        """
        texts, beams = self._running_scores.shape
        vocabulary = scores.shape[-1]
        summed = scores.reshape(texts, beams, vocabulary).astype(np.float32) + self._running_scores[:, :, None]
        summed = summed.reshape(texts, beams * vocabulary)
        if self._config.do_sample:
            chosen = draw_several(summed, self._candidates, generator)
        else:
            chosen = _best(summed, self._candidates)
        candidate_scores = np.take_along_axis(summed, chosen, 1)
        parents = chosen // vocabulary
        candidates = _take(self._running, parents)
        candidates[:, :, self._length] = chosen % vocabulary
        ended = stopping(candidates[:, :, : self._length + 1].reshape(-1, self._length + 1)).reshape(texts, -1)

        self._finish(candidates, candidate_scores, ended)
        running_scores = candidate_scores + ended.astype(np.float32) * _LOW
        kept = _best(running_scores, beams)
        self._running = _take(candidates, kept)
        self._running_scores = np.take_along_axis(running_scores, kept, 1)
        self._length += 1
        self._decide(ended)
        return (np.take_along_axis(parents, kept, 1) + np.arange(texts)[:, None] * beams).ravel()

    def _finish(self, candidates: Array, scores: Array, ended: Array) -> None:
        """Let candidates that ended take the place of worse finished beams. Only the best `num_beams` may."""
        beams = self._config.num_beams
        ended = ended & (np.arange(self._candidates) < beams)
        scores = scores / (self._length + 1 - self._prompt) ** self._config.length_penalty
        full = self._is_finished.all(-1, keepdims=True) & (self._config.early_stopping is True)
        for forbidden in (full, ~self._can_improve, ~ended):
            scores = scores + forbidden.astype(np.float32) * _LOW
        merged_scores = np.concatenate([self._finished_scores, scores], axis=1)
        kept = _best(merged_scores, beams)
        lengths = np.full(ended.shape, self._length + 1 - self._prompt)
        self._finished = _take(np.concatenate([self._finished, candidates], axis=1), kept)
        self._finished_scores = np.take_along_axis(merged_scores, kept, 1)
        self._finished_lengths = np.take_along_axis(np.concatenate([self._finished_lengths, lengths], 1), kept, 1)
        self._is_finished = np.take_along_axis(np.concatenate([self._is_finished, ended], 1), kept, 1)

    def _decide(self, ended: Array) -> None:
        """Whether any running beam can still beat a finished one, and so whether to go on."""
        config = self._config
        longest = config.early_stopping == "never" and config.length_penalty > 0
        length = (config.max_length if longest else self._length) - self._prompt
        possible = self._running_scores[:, :1] / length**config.length_penalty
        worst = np.where(self._is_finished, self._finished_scores.min(1, keepdims=True), _LOW)
        self._can_improve &= (possible > worst).any(-1, keepdims=True)
        open_beam = not (self._is_finished.all() and config.early_stopping is True)
        self.done = not (self._can_improve.any() and open_beam and not ended.all())

    def best(self) -> Array:
        """The best finished sequences of every text, best first."""
        count = self._config.num_return_sequences
        length = self._prompt + int(self._finished_lengths[:, :count].max())
        return self._finished[:, :count, :length].reshape(-1, length)


def _best(scores: Array, count: int) -> Array:
    """Indices of the `count` highest of each row (rows, count), best first, the earlier first where they tie."""
    if count < scores.shape[1] // 8:
        # Sorting a whole vocabulary for a few beams takes longer than the model's step.
        few = np.sort(np.argpartition(-scores, count, axis=1)[:, :count], axis=1)
        inner = np.argsort(-np.take_along_axis(scores, few, 1), axis=1, kind="stable")
        return np.take_along_axis(few, inner, 1)
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _take(beams: Array, chosen: Array) -> Array:
    return np.take_along_axis(beams, chosen[:, :, None], 1)
