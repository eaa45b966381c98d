"""What a caller may say of a tokenizer when it is loaded, in place of its files."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from tokenizers import AddedToken

from untorch.bundle.arguments import TOKENIZER, Source, refuse_unknown
from untorch.errors import InputError
from untorch.tokenizer.families import Family
from untorch.values import Read, count, either, flag, items, mapping, one_of, read, real, string, texts

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
ADDITIONAL = "additional_special_tokens"


def _token(value: Any) -> Any:
    if not isinstance(value, (str, AddedToken)):
        raise ValueError("a token: a text or an AddedToken")
    return value


def _tokens(value: Any) -> list[Any]:
    return [_token(token) for token in items(value)]


def _length(value: Any) -> int:
    number = real(value)
    if not number >= 1:
        raise ValueError("a number from 1")
    return int(number)


# What any tokenizer takes, by name. None stands for nothing: no such token, no limit, no template.
SETTINGS: Mapping[str, Read] = {
    **dict.fromkeys(TOKEN_NAMES, _token),
    ADDITIONAL: either("a list of tokens", _tokens),
    "add_prefix_space": flag,
    "added_tokens_decoder": lambda value: value if isinstance(value, Mapping) else mapping(value),
    "chat_template": either("a template, or a mapping of names to templates", string, mapping),
    "clean_up_tokenization_spaces": flag,
    "extra_special_tokens": either("a list of tokens, or a mapping of names to tokens", _tokens, mapping),
    "max_len": _length,
    "model_input_names": texts,
    "model_max_length": _length,
    "padding_side": one_of("left", "right"),
    "split_special_tokens": flag,
    "truncation_side": one_of("left", "right"),
}

# What only some tokenizers follow.
FOR_SOME: Mapping[str, Read] = {
    "add_bos_token": flag,
    "add_eos_token": flag,
    "do_lower_case": flag,
    "extra_ids": count,
    "mask_token_sent": string,
    "offset": count,
    "src_lang": string,
    "strip_accents": flag,
    "tgt_lang": string,
    "tokenize_chinese_chars": flag,
    "trim_offsets": flag,
}


def followed(family: Family) -> set[str]:
    """The settings that a family's tokenizers follow, besides those that all do."""
    names = set()
    if family.sync in ("bert", "bert_latin"):
        names |= {"do_lower_case", "strip_accents"}
    if family.sync == "bert":
        names.add("tokenize_chinese_chars")
    if family.sync == "roberta":
        names.add("trim_offsets")
    if family.bos_eos:
        names |= {"add_bos_token", "add_eos_token"}
    if family.language is not None:
        names |= {"src_lang", "tgt_lang"}
    return names


def checked(overrides: Mapping[str, Any], family: Family, config: Container[str], name: str) -> dict[str, Any]:
    """The overrides as they are meant; those of transformers' arguments that change nothing here are left out.

    `config` are the names that the folder's tokenizer_config.json has, which may be given too, and `name` the
    tokenizer's class. Raises InputError for one that this tokenizer does not take, and for a value of the wrong type.
    """
    taken: dict[str, Any] = {}
    own = followed(family)
    for key, value in overrides.items():
        if (rule := TOKENIZER.get(key)) is not None:
            rule.check(key, value, name)
            continue
        reader = SETTINGS.get(key) or FOR_SOME.get(key)
        if key in FOR_SOME and key not in own and key not in config and not _implied(key, name):
            if value in (None, False):
                continue
            raise InputError(f"{name} takes no {key}={value!r}: a tokenizer of this class does not follow it")
        if reader is None and key not in config:
            refuse_unknown(key, [*SETTINGS, *sorted(own), *Source.__annotations__, *TOKENIZER], name)
        taken[key] = value if value is None or reader is None else read(reader, key, value, name)
    return taken


def _implied(key: str, name: str) -> bool:
    """Whether a class numbers special tokens of its own by this setting."""
    return (key == "extra_ids" and "T5" in name) or (key in ("offset", "mask_token_sent") and "Pegasus" in name)
