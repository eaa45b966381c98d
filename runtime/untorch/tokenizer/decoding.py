"""Text out of ids, all at once or as they come."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from untorch.tokenizer.vocabulary import Vocabulary

_CLEAN_UPS = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def clean_up_tokenization(text: str) -> str:
    """Remove the spaces that tokenization left before punctuation and English contractions."""
    for artifact in _CLEAN_UPS:
        text = text.replace(artifact, artifact.strip())
    return text


class DecodeStream:
    """Decodes one sequence id by id, never giving out half a character.

    What `step` and `flush` give, joined, is `decode(ids, clean_up_tokenization_spaces=False)`.
    """

    def __init__(self, vocabulary: Vocabulary, skip: AbstractSet[int]) -> None:
        """`skip` are ids that leave no text."""
        self._vocabulary = vocabulary
        self._skip = skip
        # Decoders treat the first token of a sequence differently, so the ids of the last text given out
        # stay in the window as context.
        self._window: list[int] = []
        self._context = 0
        self._given = ""

    def step(self, token_id: int) -> str | None:
        """Take one more id; the text that it makes certain, or None. Raises InputError for an unknown id."""
        token = self._vocabulary.convert_ids_to_tokens(int(token_id))
        if token_id in self._skip:
            return None
        self._window.append(int(token_id))
        # A run of byte tokens is valid or not only as a whole.
        if _BYTE_TOKEN.fullmatch(token):
            return None
        return self._give(self._decode(self._window), final=False)

    def flush(self) -> str | None:
        """The text still held back when the sequence ends, or None."""
        return self._give(self._decode(self._window), final=True)

    def _give(self, text: str, *, final: bool) -> str | None:
        # U+FFFD at the end is an unfinished character until proved otherwise.
        if len(text) <= len(self._given) or (text.endswith("\ufffd") and not final):
            return None
        new = text[len(self._given) :]
        self._window = self._window[self._context :]
        self._context = len(self._window)
        self._given = self._decode(self._window)
        return new

    def _decode(self, ids: list[int]) -> str:
        return self._vocabulary.decode(ids, clean_up_tokenization_spaces=False)
