"""Reading what a caller gave into its one spelling.

A reader takes a value and returns it as it is meant; it raises ValueError, whose text says what the value has to be.
`read` makes an InputError of that, which names the argument too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import index
from typing import Any

from untorch.errors import InputError

Read = Callable[[Any], Any]


def read(reader: Read, name: str, value: Any, where: str = "") -> Any:
    """The value as the reader gives it. Raises InputError that says what argument of what is not what is wanted."""
    try:
        return reader(value)
    except ValueError as error:
        raise InputError(f"{f'{where}: ' if where else ''}{name} is {_shown(value)}; it is {error}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def whole(least: int | None = None) -> Read:
    """A whole number, from `least` on; numpy's too, but not True and False."""
    wanted = "a whole number" if least is None else f"a number from {least}"

    def reader(value: Any) -> int:
        if isinstance(value, bool):
            raise ValueError(wanted)
        try:
            number = index(value)
        except TypeError:
            raise ValueError(wanted) from None
        if least is not None and number < least:
            raise ValueError(wanted)
        return number

    return reader


count = whole(1)
size = whole(0)


def real(value: Any) -> float:
    """A number, whole or not."""
    # Not float(value): "1" and an array of one number are not numbers.
    if isinstance(value, bool) or not hasattr(value, "__float__") or hasattr(value, "__len__"):
        raise ValueError("a number")
    return value  # type: ignore[no-any-return]


def flag(value: Any) -> bool:
    """True or False; numpy's booleans, 1 and 0 too."""
    if type(value).__name__ not in ("bool", "bool_", "int") or value not in (True, False):
        raise ValueError("True or False")
    return bool(value)


def string(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def one_of(*names: str) -> Read:
    """One of these names, in any case, or a member of transformers' enumeration of that value."""

    def reader(value: Any) -> str:
        name = str(getattr(value, "value", value)).lower()
        if name not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return name

    return reader


def texts(value: Any) -> list[str]:
    """A text, or a list, tuple or set of texts: always a list."""
    found = (
        [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple, set, frozenset)) else None
    )
    if found is None or not all(isinstance(text, str) for text in found):
        raise ValueError("a text, or a list of texts")
    return found


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping whose keys are names."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("a mapping of names to values")
    return value


def items(value: Any) -> list[Any]:
    """A list or a tuple, of anything."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list")
    return list(value)


def ids(value: Any) -> list[int]:
    """A list of token ids, each a whole number from 0."""
    try:
        return [size(number) for number in items(value.tolist() if hasattr(value, "tolist") else value)]
    except ValueError:
        raise ValueError("a list of ids, each a number from 0") from None


def optional(reader: Read) -> Read:
    """The same, where None is a value too."""
    return lambda value: None if value is None else reader(value)


def either(wanted: str, *readers: Read) -> Read:
    """What the first of the readers that takes it makes of it; `wanted` says what that is."""

    def reader(value: Any) -> Any:
        for one in readers:
            try:
                return one(value)
            except ValueError:
                continue
        raise ValueError(wanted)

    return reader
