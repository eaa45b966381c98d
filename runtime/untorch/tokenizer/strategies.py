"""What a call may ask of a tokenizer, and what its spellings of padding and truncation come down to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from untorch.bundle.arguments import Rule, refuse_unknown
from untorch.errors import InputError
from untorch.values import Read, count, flag, read, size

_T = TypeVar("_T")

Padding = Literal["longest", "max_length", "do_not_pad"]
Truncation = Literal["longest_first", "only_first", "only_second", "do_not_truncate"]

VERY_LARGE_INTEGER = int(1e30)
"""`model_max_length` of a tokenizer that states no limit."""

LARGE_INTEGER = int(1e20)
"""A `model_max_length` above this is no limit."""

_PADDING: dict[object, Padding] = {
    True: "longest",
    "longest": "longest",
    "max_length": "max_length",
    False: "do_not_pad",
    "do_not_pad": "do_not_pad",
}
_TRUNCATION: dict[object, Truncation] = {
    True: "longest_first",
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
    False: "do_not_truncate",
    None: "do_not_truncate",
    "do_not_truncate": "do_not_truncate",
}


class CallOptions(NamedTuple):
    """The arguments of a tokenizer call, with transformers' names and defaults."""

    add_special_tokens: bool = True
    padding: bool | str = False
    truncation: bool | str | None = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True
    split_special_tokens: bool | None = None

    def changed(self, others: Mapping[str, Any]) -> CallOptions:
        """The same with these instead. Raises InputError for a name that is no option, and for a wrong type."""
        own = {}
        for name, value in others.items():
            if name in RULES:
                RULES[name].check(name, value, "the tokenizer")
            elif name not in _READ:
                refuse_unknown(name, _READ, "the tokenizer")
            else:
                own[name] = value
        options = self._replace(**own) if own else self
        # As a rule nothing is said, and there is nothing to look at.
        if options != _PLAIN:
            for name, value in options._asdict().items():
                if value is not None:
                    read(_READ[name], name, value)
        return options


_PLAIN = CallOptions()

# What the options have to be. The spellings of padding and truncation are for `resolve`, and tensors for BatchEncoding.
_ANY: Read = lambda value: value  # noqa: E731
_READ: Mapping[str, Read] = {
    **dict.fromkeys(CallOptions._fields, flag),
    "padding": _ANY,
    "truncation": _ANY,
    "max_length": size,
    "stride": size,
    "pad_to_multiple_of": count,
    "padding_side": _ANY,
    "return_tensors": _ANY,
}

# transformers' arguments of a call that have no effect or cannot be had.
RULES: Mapping[str, Rule] = {
    "sanitize_control_tokens": Rule((False,), "take special tokens out of what users write before it is encoded"),
}


class Strategy(NamedTuple):
    """How a call pads and truncates, decided; `max_length` is None when nothing needs it."""

    padding: Padding
    truncation: Truncation
    max_length: int | None


def resolve(
    *,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    pad_to_multiple_of: int | None,
    model_max_length: int,
    warn: Callable[[str, str], None],
) -> Strategy:
    """Decide how to pad and truncate.

    `warn` receives a kind and a message where the request is ambiguous or cannot be met. Raises InputError for an
    unknown spelling, and for a truncation length that is not a multiple of `pad_to_multiple_of`.
    """
    if max_length is not None and padding is False and truncation is None:
        warn(
            "implied truncation",
            "max_length was given without truncation: truncating longest first. "
            "Pass truncation=True, or a strategy, to say so.",
        )
        truncation = "longest_first"
    if padding is True and max_length is not None and truncation in (None, False, "do_not_truncate"):
        warnings.warn('max_length is ignored: padding=True pads to the longest; use padding="max_length"', stacklevel=2)

    pads = _choose(_PADDING, "padding", padding)
    truncates = _choose(_TRUNCATION, "truncation", truncation)

    if max_length is None and pads == "max_length":
        if model_max_length > LARGE_INTEGER:
            warn(
                "no limit to pad to",
                'padding="max_length" without max_length, and the model states no maximum: not padding.',
            )
            pads = "do_not_pad"
        else:
            max_length = model_max_length
    if max_length is None and truncates != "do_not_truncate":
        if model_max_length > LARGE_INTEGER:
            warn(
                "no limit to truncate to",
                "truncation without max_length, and the model states no maximum: not truncating.",
            )
            truncates = "do_not_truncate"
        else:
            max_length = model_max_length

    if (
        truncates != "do_not_truncate"
        and pads != "do_not_pad"
        and pad_to_multiple_of is not None
        and max_length is not None
        and max_length % pad_to_multiple_of
    ):
        raise InputError(f"max_length {max_length} is not a multiple of pad_to_multiple_of {pad_to_multiple_of}")
    return Strategy(pads, truncates, max_length)


def _choose(spellings: dict[object, _T], name: str, value: object) -> _T:
    try:
        return spellings[value]
    except (KeyError, TypeError):
        known = ", ".join(repr(spelling) for spelling in spellings)
        raise InputError(f"{name}={value!r} is not one of {known}") from None
