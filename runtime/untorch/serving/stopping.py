"""Stop strings: the text ends before them, and none of it is given out while one may have begun."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Takes a text piece by piece and gives it back up to the first of the strings."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.found: str | None = None

    def take(self, piece: str) -> str:
        """The text that is certain now; `found` is set once a string has come."""
        if self.found is not None:
            return ""
        text = self._held + piece
        places = [(place, string) for string in self._strings if (place := text.find(string)) >= 0]
        if places:
            place, self.found = min(places, key=lambda found: found[0])
            self._held = ""
            return text[:place]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, when the text ends without the rest of a string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of `text` that begins `string`."""
    return next((size for size in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:size])), 0)
