"""What a tokenizer class changes in the Rust tokenizer on loading, whatever `tokenizer.json` says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import processors

from untorch.errors import FormatError
from untorch.tokenizer.families import Family

_State = dict[str, Any]

ADJUSTING = frozenset(
    {
        "add_prefix_space",
        "trim_offsets",
        "do_lower_case",
        "strip_accents",
        "tokenize_chinese_chars",
        "add_bos_token",
        "add_eos_token",
        "src_lang",
    }
)
"""The settings that `adjust` follows."""


def adjust(
    tokenizer: RustTokenizer, family: Family, settings: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> None:
    """Bring the Rust tokenizer's components in line with the settings, in place.

    Raises FormatError when the settings ask for a special token that is not defined.
    """
    prefix_space = settings.get("add_prefix_space", False)
    if prefix_space is not None:  # written as null by converters from other formats: as the tokenizer has it
        _edit(tokenizer, "pre_tokenizer", lambda state: _follow(state, {"add_prefix_space": prefix_space}))
    if family.sync in ("bert", "bert_latin"):
        wanted = {"lowercase": settings["do_lower_case"], "strip_accents": settings["strip_accents"]}
        if family.sync == "bert":
            wanted["handle_chinese_chars"] = settings["tokenize_chinese_chars"]
        _edit(tokenizer, "normalizer", lambda state: _follow(state, wanted))
    elif family.sync == "roberta":
        wanted = {"add_prefix_space": prefix_space, "trim_offsets": settings["trim_offsets"]}
        _edit(tokenizer, "post_processor", lambda state: _follow(state, wanted))
    elif family.sync == "bloom" and prefix_space:
        for component in ("pre_tokenizer", "decoder"):
            _edit(tokenizer, component, _prefix_everywhere)
    if family.bos_eos:
        _rebuild_bos_eos(tokenizer, settings, special_tokens)
    if family.language is not None:
        set_language(tokenizer, family, settings, special_tokens["eos_token"])


def set_language(tokenizer: RustTokenizer, family: Family, settings: Mapping[str, Any], eos: str) -> None:
    """Rebuild the post-processor of a translation tokenizer for texts in the language `src_lang`.

    Raises FormatError when the vocabulary has no such token.
    """
    language = settings["src_lang"] or family.defaults["src_lang"]
    ids = {token: tokenizer.token_to_id(token) for token in (language, eos)}
    if missing := [token for token, index in ids.items() if index is None]:
        raise FormatError(f"the tokenizer's language or end token {missing[0]!r} is not in its vocabulary")
    prefix = family.language == "prefix" and not settings.get("legacy_behaviour")
    template = [language, "$A", eos] if prefix else ["$A", eos, language]
    where = template.index("$A") + 1
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, pair=[*template[:where], "$B", *template[where:]], special_tokens=list(ids.items())
    )


def _follow(state: _State, wanted: Mapping[str, Any]) -> bool:
    """Set the wanted values if the component has such a setting with another value; say whether it had."""
    if all(state.get(key, value) == value for key, value in wanted.items()):
        return False
    state.update(wanted)
    return True


def _prefix_everywhere(state: Any) -> bool:
    changed = False
    if isinstance(state, dict):
        if state.get("add_prefix_space") is False:
            state["add_prefix_space"] = changed = True
        state = list(state.values())
    if isinstance(state, list):
        changed = sum(map(_prefix_everywhere, state)) > 0 or changed
    return changed


def _edit(tokenizer: RustTokenizer, component: str, change: Callable[[_State], bool]) -> None:
    part = getattr(tokenizer, component)
    if part is None:
        return
    state = json.loads(part.__getstate__())
    if change(state):
        part.__setstate__(json.dumps(state).encode())
        setattr(tokenizer, component, part)


def _rebuild_bos_eos(tokenizer: RustTokenizer, settings: Mapping[str, Any], special_tokens: Mapping[str, str]) -> None:
    ends: dict[str, str | None] = {}
    for name in ("bos", "eos"):
        token = special_tokens.get(f"{name}_token")
        if settings[f"add_{name}_token"] and token is None:
            raise FormatError(f"add_{name}_token is set, but the tokenizer has no {name}_token")
        ends[name] = token if settings[f"add_{name}_token"] else None
    bos, eos = ends["bos"], ends["eos"]

    def framed(slot: str, type_id: int) -> list[str]:
        return [f"{part}:{type_id}" for part in (bos, slot, eos) if part is not None]

    single = framed("$A", 0)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=single + framed("$B", 1),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in {bos, eos} if token is not None],
    )
