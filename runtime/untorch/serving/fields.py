"""Fields of a JSON body, each taken out with its check. What is not asked for is ignored, as the neighbours do."""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite
from typing import Any

from untorch.serving.errors import RefusalError

_REQUIRED: Any = object()
_NAMES = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class Fields:
    """The fields of one object. Raises RefusalError, naming the field, for what is missing or wrong.

    A field that is null counts as not given.
    """

    def __init__(self, body: Any, where: str = "") -> None:
        if not isinstance(body, dict):
            raise RefusalError(
                "invalid", f"{where or 'the body'} is {kind_of(body)}; it is an object", field=where or None
            )
        self._body = body
        self._where = f"{where}." if where else ""

    def __contains__(self, name: str) -> bool:
        return self._body.get(name) is not None

    def refuse(self, name: str, reason: str) -> RefusalError:
        """The refusal of a field."""
        return RefusalError("invalid", f"`{self._where}{name}` {reason}", field=self._where + name)

    def value(self, name: str, default: Any = _REQUIRED) -> Any:
        """A field of any kind."""
        value = self._body.get(name)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise self.refuse(name, "is missing")
        return default

    def _typed(self, name: str, kind: type, default: Any) -> Any:
        value = self.value(name, default)
        if value is default or type(value) is kind:
            return value
        raise self.refuse(name, f"is {kind_of(value)}; it is {_NAMES[kind]}")

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        """A text."""
        return self._typed(name, str, default)

    def flag(self, name: str, default: Any = _REQUIRED) -> Any:
        """True or false."""
        return self._typed(name, bool, default)

    def items(self, name: str, default: Any = _REQUIRED) -> Any:
        """A list."""
        return self._typed(name, list, default)

    def fields(self, name: str) -> Fields:
        """An object; empty if it is not there."""
        return Fields(self._typed(name, dict, {}), self._where + name)

    def integer(self, name: str, default: Any = _REQUIRED, *, low: int = 0, high: int = 1 << 31) -> Any:
        """A whole number from `low` to `high`."""
        value = self._typed(name, int, default)
        if value is not default and not low <= value <= high:
            raise self.refuse(name, f"is {value}; it is a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: Any = _REQUIRED, *, low: float = -1e9, high: float = 1e9) -> Any:
        """A number from `low` to `high`."""
        value = self.value(name, default)
        if value is default:
            return value
        if type(value) not in (int, float) or not isfinite(value) or not low <= value <= high:
            shown = value if isinstance(value, (int, float)) else kind_of(value)
            raise self.refuse(name, f"is {shown}; it is a number from {low:g} to {high:g}")
        return float(value)

    def choice(self, name: str, choices: Collection[str], default: Any = _REQUIRED) -> Any:
        """One of several words."""
        value = self.value(name, default)
        if value is not default and (not isinstance(value, str) or value not in choices):
            raise self.refuse(name, f"is not one of {', '.join(choices)}")
        return value

    def texts(self, name: str, default: Any = _REQUIRED) -> Any:
        """A list of texts."""
        values = self.items(name, default)
        if values is not default:
            check_texts(values, self._where + name)
        return values

    def text_or_texts(self, name: str, default: Any = _REQUIRED) -> Any:
        """A text, or a list of texts."""
        value = self.value(name, default)
        if value is default or isinstance(value, str):
            return value
        return self.texts(name)


def check_texts(values: list[Any], where: str) -> None:
    """Raise RefusalError for the first value that is no text."""
    if set(map(type, values)) <= {str}:
        return
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise RefusalError("invalid", f"`{where}[{index}]` is {kind_of(value)}; it is a text", field=where)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)
