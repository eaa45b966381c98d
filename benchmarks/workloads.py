"""Makes the texts of the workloads from a list of common words. The same seed gives the same texts.

A tokenizer only decides which words are used, those that are one token each, so that a text's length in tokens is
known by construction. Lengths count the two special tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_COMMON = """
the of and to in is was for on that with as by at from his it an are were which this be had not or first their
one has its new after but who they have her she two been other when all during there time into more school years
only some city between over would later about such made most state under year between second where then no up
world out while team people part family life early including number work film area several music group game
company house used war name work day long small large great good bad best old young high low left right home water
book story song play show local public national club player party system house place river road town church law
service government army force president king death children woman man men women father mother son brother friend
money art history science language english french german american british north south east west street building
bridge island sea air land power light white black red green blue door hand head face eye voice night morning week
month end start back line point side case fact question answer idea reason way thing word letter page number three
four five six ten hundred thousand million never always often again still also even just very much many few little
own same different important possible free full open close real true strong simple clear hard easy early late fast
slow hot cold happy sad love hate like want need know think see look find give take make keep leave come go run
walk read write speak tell ask call turn hold bring move stand sit fall grow learn teach build buy sell pay win
lose send meet lead follow stop begin wait serve die remember consider appear
"""
WORDS = tuple(dict.fromkeys(_COMMON.split()))

SEED = 20240607
LATENCY_TOKENS = (16, 32, 128)
SENTENCES = 4096
LONG_TEXTS = 256
LONG_TOKENS = 512
MEMORY_TEXTS = 20_000
CALLERS = (1, 8, 64)
SHORTEST, LONGEST = 4, 256

# The tokens of a sentence are log-normal, which lengths of real sentences nearly are; the mean is 25 within the limits.
_MEDIAN, _SIGMA = 19.7, 0.7


@dataclass(frozen=True)
class Texts:
    """Texts and their lengths in tokens, special tokens counted."""

    texts: list[str]
    tokens: list[int]


class Generator:
    """Makes texts for one tokenizer. `count(text)` is the number of tokens of a text, special tokens counted.

    Raises ValueError if the tokenizer has fewer than 50 of the words as single tokens.
    """

    def __init__(self, count: Callable[[str], int], seed: int = SEED) -> None:
        self._count = count
        self._seed = seed
        self.special = count("")
        self.words = [word for word in WORDS if count(f"the {word}") - count("the") == 1]
        if len(self.words) < 50:
            raise ValueError(f"only {len(self.words)} of {len(WORDS)} words are single tokens; use another tokenizer")

    def latency(self, length: int, texts: int = 50) -> Texts:
        """Different texts of exactly `length` tokens."""
        return self._made([length] * texts, f"latency {length}")

    def sentences(self, texts: int = SENTENCES) -> Texts:
        """Texts with the length distribution of sentences: mean about 25 tokens, tail to 256."""
        rng = random.Random(f"{self._seed} lengths")
        return self._made([_sentence_length(rng) for _ in range(texts)], "sentences")

    def long(self, texts: int = LONG_TEXTS) -> Texts:
        """Texts that fill 512 tokens exactly."""
        return self._made([LONG_TOKENS] * texts, "long")

    def mixed(self, texts: int = MEMORY_TEXTS) -> Texts:
        """Texts of 4 to 128 tokens; all lengths are equally likely."""
        rng = random.Random(f"{self._seed} mixed")
        return self._made([rng.randint(SHORTEST, 128) for _ in range(texts)], "mixed")

    def _made(self, lengths: Sequence[int], name: str) -> Texts:
        rng = random.Random(f"{self._seed} {name}")
        texts = [" ".join(rng.choices(self.words, k=length - self.special)) for length in lengths]
        for length, text in zip(lengths[:64], texts, strict=False):
            if self._count(text) != length:
                raise ValueError(f"a text of {self._count(text)} tokens was made where {length} were wanted: {text!r}")
        return Texts(texts, list(lengths))


def _sentence_length(rng: random.Random) -> int:
    return min(LONGEST, max(SHORTEST, round(rng.lognormvariate(math.log(_MEDIAN), _SIGMA))))


def counter(tokenizer_file: str) -> Callable[[str], int]:
    """A count of tokens for `Generator`, from a `tokenizer.json`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)
