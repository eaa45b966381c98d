"""The arguments of a task's calls: declared once for each task, checked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn, Self

from untorch.bundle.arguments import Rule
from untorch.errors import InputError
from untorch.values import Read, read


class Argument(NamedTuple):
    """One argument of a call: its default, how a value is read, and whether None is a value rather than the default."""

    default: Any
    read: Read
    none: bool


def argument(default: Any, reader: Read, *, none: bool = False) -> Any:
    """Declare a field of a `Parameters` class as an argument of the call. None stands for the default unless `none`."""
    return Argument(default, reader, none)


class Parameters:
    """One call's arguments, by name. A task's subclass declares them:

        class FillMaskParameters(Parameters):
            top_k: int = argument(5, count)
            target_ids: Array | None = None  # no argument: the pipeline fills it in

    Fields are read as a dataclass's are. A dataclass would compile code for each class at every start.
    """  # noqa: D415

    declared: ClassVar[dict[str, Argument]] = {}

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Argument)}
        cls.declared = cls.declared | own
        for name, declared in own.items():
            setattr(cls, name, declared.default)

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def changed(self, **values: Any) -> Self:
        """A copy with other values."""
        return type(self)(**{**vars(self), **values})

    @classmethod
    def of(cls, arguments: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> Self:
        """Read arguments by any names; see `named` and `read`."""
        return cls.read(cls.named(arguments, rules, where), where)

    @classmethod
    def named(
        cls, arguments: Mapping[str, Any], rules: Mapping[str, Rule], where: str, others: Iterable[str] = ()
    ) -> dict[str, Any]:
        """The arguments that are declared and not left at their default.

        Those that `rules` know are checked and left out. Raises InputError for other names; `others` are names that
        the message lists besides.
        """
        given, unknown = {}, []
        for name, value in arguments.items():
            if (declared := cls.declared.get(name)) is not None:
                if value is not None or declared.none:
                    given[name] = value
            elif (rule := rules.get(name)) is not None:
                rule.check(name, value, where)
            else:
                unknown.append(name)
        if unknown:
            _refuse(unknown, sorted([*others, *cls.declared]), where)
        return given

    @classmethod
    def read(cls, arguments: Mapping[str, Any], where: str) -> Self:
        """Read arguments that `named` gave; `where` is the task. Raises InputError for a value that is refused."""
        values = {}
        for name, value in arguments.items():
            declared = cls.declared.get(name)
            if value is not None and declared is not None:
                value = read(declared.read, name, value, where)
            values[name] = value
        return cls(**values)


def _refuse(unknown: list[str], known: list[str], where: str) -> NoReturn:
    """Raise InputError for names that are no argument of a task, with the nearest of those that are."""
    # Imported here: only an error pays for it.
    from difflib import get_close_matches

    near = dict.fromkeys(match for name in unknown for match in get_close_matches(name, known, 1))
    meant = f"did you mean {', '.join(near)}? " if near else ""
    raise InputError(f"{where} takes no argument {', '.join(sorted(unknown))}; {meant}It takes {', '.join(known)}")
