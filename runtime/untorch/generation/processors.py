"""What changes the scores of the next token before one is chosen: transformers' processors, in its order.

A processor takes the ids so far (rows, length) and scores (rows, vocabulary), and gives new scores of that shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from untorch.errors import InputError
from untorch.generation.config import GenerationConfig
from untorch.numerics import Array, log_softmax, softmax

Processor = Callable[[Array, Array], Array]

_NEVER = -np.inf


def processors(
    config: GenerationConfig,
    prompt_length: int,
    callers: Sequence[Processor] = (),
    prefix: Processor | None = None,
    source: Array | None = None,
) -> list[Processor]:
    """The processors that a configuration asks for, and among them the caller's, where transformers has them.

    `config.max_length` counts the whole sequence; `prefix` keeps to the tokens that a text may go on with; `source`
    (texts, length) is what `generate` was given to read, an encoder's text or the prompt.
    """
    eos = config.eos_tokens()
    found: list[Processor] = []
    if config.encoder_repetition_penalty not in (None, 1.0) and source is not None:
        found.append(encoder_repetition_penalty(config.encoder_repetition_penalty, source))
    if config.repetition_penalty not in (None, 1.0):
        found.append(repetition_penalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        found.append(no_repeat_ngram(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size and source is not None:
        found.append(encoder_no_repeat_ngram(config.encoder_no_repeat_ngram_size, source))
    if config.bad_words_ids is not None:
        found.append(no_bad_words(config.bad_words_ids, eos))
    # min_new_tokens is in min_length by now.
    if eos and config.min_length > 0:
        found.append(min_length(config.min_length, eos))
    if prefix is not None:
        found.append(prefix)
    if config.forced_bos_token_id is not None:
        found.append(forced(1, [config.forced_bos_token_id]))
    if config.forced_eos_token_id is not None:
        last = config.forced_eos_token_id
        found.append(forced(config.max_length - 1, [last] if isinstance(last, int) else last))
    if config.suppress_tokens is not None:
        found.append(suppress(config.suppress_tokens))
    if config.begin_suppress_tokens is not None:
        begin = prompt_length + (prompt_length == 1 and config.forced_bos_token_id is not None)
        found.append(suppress(config.begin_suppress_tokens, at=begin))
    found += callers
    if config.do_sample:
        found += _warpers(config, keep=len(eos) + 1 if config.num_beams > 1 else 1)
    if config.renormalize_logits:
        found.append(lambda _ids, scores: log_softmax(scores))
    return found


def _warpers(config: GenerationConfig, keep: int) -> list[Processor]:
    """Those that only sampling uses. Beams need `keep` tokens to choose from."""
    found: list[Processor] = []
    if config.temperature not in (None, 1.0):
        found.append(temperature(config.temperature))
    if config.top_k:
        found.append(top_k(max(config.top_k, keep)))
    if config.top_p is not None and config.top_p < 1.0:
        found.append(top_p(config.top_p, keep))
    if config.min_p is not None:
        found.append(min_p(config.min_p, keep))
    return found


def temperature(value: float) -> Processor:
    """Scores divided by the temperature: below 1 the likely becomes likelier."""
    return lambda _ids, scores: scores / np.float32(value)


def top_k(count: int) -> Processor:
    """Only the `count` best, and what ties with the last of them."""
    if count < 1:
        raise InputError(f"top_k is {count}; it is a number from 1, or 0 for no limit")

    def process(_ids: Array, scores: Array) -> Array:
        if count >= scores.shape[-1]:
            return scores
        least = np.partition(scores, -count, axis=-1)[:, -count, None]
        return np.where(scores < least, _NEVER, scores)

    return process


def top_p(share: float, keep: int = 1) -> Processor:
    """Only the most likely tokens that together reach the probability `share`, and at least `keep`."""
    if not 0 <= share <= 1:
        raise InputError(f"top_p is {share}; it is a share from 0 to 1")

    def process(_ids: Array, scores: Array) -> Array:
        order = np.argsort(scores, axis=-1, kind="stable")
        summed = softmax(np.take_along_axis(scores, order, -1)).cumsum(-1)
        removed = summed <= 1 - share
        removed[:, -keep:] = False
        return _removed(scores, order, removed)

    return process


def min_p(share: float, keep: int = 1) -> Processor:
    """Only tokens at least `share` times as likely as the likeliest, and at least `keep`."""
    if not 0 <= share <= 1:
        raise InputError(f"min_p is {share}; it is a share from 0 to 1")

    def process(_ids: Array, scores: Array) -> Array:
        likely = softmax(scores)
        order = np.argsort(-scores, axis=-1, kind="stable")
        removed = np.take_along_axis(likely < np.float32(share) * likely.max(-1, keepdims=True), order, -1)
        removed[:, :keep] = False
        return _removed(scores, order, removed)

    return process


def repetition_penalty(penalty: float) -> Processor:
    """Tokens that occurred already lose: positive scores are divided by the penalty, negative multiplied."""
    if not penalty > 0:
        raise InputError(f"repetition_penalty is {penalty}; it is above 0")
    return lambda ids, scores: _penalized(scores, ids, penalty)


def encoder_repetition_penalty(penalty: float, source: Array) -> Processor:
    """Tokens of the source text win by this factor, or lose where it is below 1."""
    if not penalty > 0:
        raise InputError(f"encoder_repetition_penalty is {penalty}; it is above 0")
    return lambda _ids, scores: _penalized(scores, source.repeat(len(scores) // len(source), 0), 1 / penalty)


def _penalized(scores: Array, ids: Array, penalty: float) -> Array:
    seen = np.take_along_axis(scores, ids, -1)
    scores = scores.copy()
    np.put_along_axis(scores, ids, np.where(seen < 0, seen * np.float32(penalty), seen / np.float32(penalty)), -1)
    return scores


def no_repeat_ngram(size: int) -> Processor:
    """No run of `size` tokens occurs twice, the prompt included."""

    def process(ids: Array, scores: Array) -> Array:
        length = ids.shape[1]
        if length < size:
            return scores
        scores = scores.copy()
        windows = np.lib.stride_tricks.sliding_window_view(ids, size, axis=1)
        for row, (seen, tail) in enumerate(zip(windows, ids[:, length + 1 - size :], strict=True)):
            scores[row, seen[(seen[:, :-1] == tail).all(-1), -1]] = _NEVER
        return scores

    return process


def encoder_no_repeat_ngram(size: int, source: Array) -> Processor:
    """No run of `size` tokens of the source text is written."""
    windows = np.lib.stride_tricks.sliding_window_view(source, size, axis=1) if source.shape[1] >= size else None

    def process(ids: Array, scores: Array) -> Array:
        if windows is None or ids.shape[1] < size - 1:
            return scores
        scores = scores.copy()
        rows = len(scores) // len(windows)
        for row, tail in enumerate(ids[:, ids.shape[1] + 1 - size :]):
            seen = windows[row // rows]
            scores[row, seen[(seen[:, :-1] == tail).all(-1), -1]] = _NEVER
        return scores

    return process


def no_bad_words(words: Sequence[Sequence[int]], eos: Sequence[int]) -> Processor:
    """None of these runs of tokens is completed. An eos id alone may not be forbidden, and is left out."""
    if not words or not all(words):
        raise InputError("bad_words_ids is a list of lists of ids, none of them empty")
    runs = [np.asarray(word) for word in words if not (len(word) == 1 and word[0] in eos)]

    def process(ids: Array, scores: Array) -> Array:
        scores = scores.copy()
        for run in runs:
            if len(run) == 1:
                scores[:, run[0]] = _NEVER
            elif len(run) - 1 <= ids.shape[1]:
                scores[(ids[:, 1 - len(run) :] == run[:-1]).all(-1), run[-1]] = _NEVER
        return scores

    return process


def min_length(length: int, eos: Sequence[int]) -> Processor:
    """No end before `length` tokens."""

    def process(ids: Array, scores: Array) -> Array:
        return scores if ids.shape[1] >= length else _without(scores, eos)

    return process


def forced(length: int, tokens: Sequence[int]) -> Processor:
    """After exactly `length` tokens, one of `tokens`."""

    def process(ids: Array, scores: Array) -> Array:
        if ids.shape[1] != length:
            return scores
        scores = np.full_like(scores, _NEVER)
        scores[:, list(tokens)] = 0
        return scores

    return process


def suppress(tokens: Sequence[int], at: int | None = None) -> Processor:
    """Never these tokens, or not as the one after `at` tokens."""

    def process(ids: Array, scores: Array) -> Array:
        return scores if at is not None and ids.shape[1] != at else _without(scores, tokens)

    return process


def _without(scores: Array, tokens: Sequence[int]) -> Array:
    """Scores without some tokens; a config may name ids that the vocabulary does not have."""
    scores = scores.copy()
    scores[:, [token for token in tokens if token < scores.shape[1]]] = _NEVER
    return scores


def _removed(scores: Array, order: Array, removed: Array) -> Array:
    """Scores without those that `removed` marks, in the order of `order`."""
    places = np.empty_like(removed)
    np.put_along_axis(places, order, removed, -1)
    return np.where(places, _NEVER, scores)
