"""The tokenizer's arguments that a task passes on, and what its spellings of truncation come down to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from untorch.pipelines.parameters import Parameters, argument
from untorch.values import count, either, flag, one_of

if TYPE_CHECKING:
    from untorch.tokenizer.strategies import Truncation

_log = logging.getLogger(__name__)

# The spellings of the tokenizer's two arguments that have several.
_PADDING = ("longest", "max_length", "do_not_pad")
_TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
padding = either(f"one of True, False, {', '.join(_PADDING)}", flag, one_of(*_PADDING))
truncation = either(f"one of True, False, {', '.join(_TRUNCATION)}", flag, one_of(*_TRUNCATION))


class TokenizerParameters(Parameters):
    """Arguments of the tokenizer's call that change what a text becomes, by its names.

    Padding changes no answer, as the model sees it masked: its spelling is checked, and rows are padded as little as
    can be.
    """

    truncation: bool | str | None = argument(None, truncation)
    max_length: int | None = argument(None, count)
    padding: bool | str = argument(False, padding)
    pad_to_multiple_of: int | None = argument(None, count)
    add_special_tokens: bool = argument(True, flag)
    cut: Truncation = "do_not_truncate"


T = TypeVar("T", bound=TokenizerParameters)


def settled(parameters: T, longest: int | None) -> T:
    """The same with `cut` decided, as transformers decides it; `longest` is the length where truncation cuts.

    `max_length` alone, for example, cuts, with a warning. Raises InputError for a spelling that does not exist.
    """
    if not vars(parameters).keys() & TokenizerParameters.declared.keys():
        return parameters
    # Imported here: a call that passes nothing on should not pay for it.
    from untorch.tokenizer.strategies import VERY_LARGE_INTEGER, resolve

    strategy = resolve(
        padding=parameters.padding,
        truncation=parameters.truncation,
        max_length=parameters.max_length,
        pad_to_multiple_of=parameters.pad_to_multiple_of,
        model_max_length=VERY_LARGE_INTEGER if longest is None else longest,
        warn=lambda _, message: _log.warning(message),
    )
    return parameters.changed(cut=strategy.truncation)


def truncates(truncation: Any, longest: int | None) -> bool:
    """Whether `truncation`, in any of the tokenizer's spellings, asks to cut and there is a length to cut at.

    Where there is none, a warning says so, as in transformers. Raises InputError.
    """
    return settled(TokenizerParameters(truncation=truncation), longest).cut != "do_not_truncate"
