"""Text from token ids that arrive one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet

_CLEAN_UPS = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
# The longest of these: so many characters at the end may turn out to begin one.
_HELD = max(map(len, _CLEAN_UPS))
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def clean_up_tokenization(text: str) -> str:
    """Remove the spaces that tokenization left before punctuation and English contractions."""
    for artifact in _CLEAN_UPS:
        text = text.replace(artifact, artifact.strip())
    return text


class DecodeStream:
    """Decodes one sequence id by id and returns text as soon as its characters are complete.

    The joined results of `step` and `flush` are what `decode` gives for all ids. A tokenizer makes one:
    `tokenizer.decode_stream()`.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        token: Callable[[int], str],
        skip: AbstractSet[int],
        clean_up: bool = False,
    ) -> None:
        """`decode` gives the text of ids, `token` the token of one id; ids in `skip` leave no text.

        With `clean_up` the spaces before punctuation are left out.
        """
        self._decode = decode
        self._token = token
        self._skip = skip
        # Decoders treat the first token of a sequence differently. The ids of the text returned last stay in the
        # window, so that the next ones are never first.
        self._window: list[int] = []
        self._context = 0
        self._given = ""
        # Of a text that is cleaned up: the line as it was decoded, and how much of the clean one was returned.
        self._line: str | None = "" if clean_up else None
        self._returned = 0

    def step(self, token_id: int) -> str | None:
        """Add one id; return the text that is complete with it, or None. Raises InputError for an unknown id."""
        token = self._token(int(token_id))
        if token_id in self._skip:
            return None
        self._window.append(int(token_id))
        # A run of byte tokens is decoded only when it ends, because it is valid UTF-8 or not as a whole.
        if _BYTE_TOKEN.fullmatch(token):
            return None
        return self._cleaned(self._give(self._decode(self._window), final=False), final=False)

    def flush(self) -> str | None:
        """End the sequence; return the text that was still held back, or None."""
        return self._cleaned(self._give(self._decode(self._window), final=True), final=True)

    def _cleaned(self, text: str | None, *, final: bool) -> str | None:
        """What of a text can be returned once it is cleaned up: all but what the next characters may change."""
        if self._line is None:
            return text
        self._line += text or ""
        clean = clean_up_tokenization(self._line)
        end = len(clean) if final or self._line.endswith("\n") else max(self._returned, len(clean) - _HELD)
        new = clean[self._returned : end]
        self._returned = end
        if self._line.endswith("\n"):
            self._line, self._returned = "", 0
        return new or None

    def _give(self, text: str, *, final: bool) -> str | None:
        # U+FFFD at the end is most likely a character whose last bytes are still to come.
        if len(text) <= len(self._given) or (text.endswith("\ufffd") and not final):
            return None
        new = text[len(self._given) :]
        self._window = self._window[self._context :]
        self._context = len(self._window)
        self._given = self._decode(self._window)
        return new
