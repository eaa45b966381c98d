"""Made-up English texts of a given number of tokens, to measure with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_STORY = (
    "the story of a small town by the river where people work and talk about the weather every day is long and good "
    "but in the end some of them leave for the city to find new friends and a better life with more light and music"
)
_WORDS = _STORY.split()

FIRST = " ".join(_WORDS[:10])


def text_of(count: Callable[[str], int], tokens: int, start: int = 0) -> str:
    """A text of at most `tokens` tokens, as near to that as whole words come.

    `count` gives the number of tokens of a text; `start` is the number of the word that the text begins with, so that
    texts of one length differ.
    """
    words: list[str] = []
    while True:
        longer = [*words, _WORDS[(start + len(words)) % len(_WORDS)]]
        if count(" ".join(longer)) > tokens:
            return " ".join(words or longer)
        words = longer


def sentences(count: Callable[[str], int], number: int, longest: int) -> list[str]:
    """`number` texts with the lengths of sentences: log-normal around 20 tokens, 4 to `longest`; always the same."""
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(20), 0.7, number), 4, longest).astype(int)
    return [text_of(count, int(length), index) for index, length in enumerate(lengths)]
