"""From a folder's files to a ready Rust tokenizer and the settings that go with it.

Read are `tokenizer.json` and, where present, `tokenizer_config.json`, `special_tokens_map.json`,
`added_tokens.json`, `chat_template.jinja` and `config.json`, as transformers 4 or 5 save them. Where two
files disagree, the one transformers 4.57.6 would believe is believed.

transformers 5 reads some folders of 4 otherwise than 4 does. A folder means what the version that wrote it
means by it, and 5 writes `"backend": "tokenizers"` into `tokenizer_config.json`. There `tokenizer.json` is final:
the class changes nothing in it but the source language, unless an override asks for it, and spaces before punctuation
are kept in the text of a BPE model, whatever `clean_up_tokenization_spaces` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from untorch.bundle.folder import check_size, read_json
from untorch.errors import BundleError, FormatError, InputError, UntorchError
from untorch.tokenizer.adjustments import ADJUSTING, adjust, set_language
from untorch.tokenizer.families import Family, family_of, implied_additional_tokens
from untorch.tokenizer.model_types import TOKENIZER_OF
from untorch.tokenizer.overrides import ADDITIONAL, TOKEN_NAMES, checked
from untorch.tokenizer.strategies import VERY_LARGE_INTEGER

# What transformers 5 has to be told to clean up the text of a BPE model.
CLEAN_UP_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


class Settings(NamedTuple):
    """Everything about a tokenizer that the Rust tokenizer does not hold."""

    family: Family
    class_name: str
    """The tokenizer class that the files name or imply, as transformers calls it; empty if neither."""
    special_tokens: dict[str, str | None]
    additional_special_tokens: list[str]
    extra_special_tokens: dict[str, str]
    model_input_names: list[str]
    model_max_length: int
    padding_side: str
    truncation_side: str
    clean_up_tokenization_spaces: bool
    can_clean_up: bool
    """Whether the version that wrote the files cleans up the text of such a model at all."""
    split_special_tokens: bool
    add_prefix_space: bool
    chat_template: str | dict[str, str] | None
    name_or_path: str
    init_kwargs: dict[str, Any]


def load(folder: Path, overrides: Mapping[str, Any], name_or_path: str | None = None) -> tuple[RustTokenizer, Settings]:
    """Read a folder.

    `overrides` are settings and special tokens that replace those of the files. Raises BundleError when
    there is no `tokenizer.json`, FormatError when a file is malformed, InputError for a bad override.
    """
    try:
        return _load(folder, overrides, name_or_path)
    except UntorchError:
        raise
    except BaseException as error:  # The binding raises bare Exception, and a panic in Rust is not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = f"{type(error).__name__}: {error}"
        raise FormatError(f"{folder}: the tokenizer's files, or overrides of them, are malformed: {reason}") from error


def _load(folder: Path, overrides: Mapping[str, Any], name_or_path: str | None) -> tuple[RustTokenizer, Settings]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BundleError(
            f"{folder} has no tokenizer.json; write one where transformers is installed, with "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    check_size(path)
    try:
        tokenizer = RustTokenizer.from_file(str(path))
    except BaseException as error:  # The binding raises bare Exception, and a panic in Rust is not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FormatError(f"{path} is not a tokenizer: {error}") from error

    config = _read(folder / "tokenizer_config.json")
    class_name = _class_name(folder, config)
    name = class_name.removesuffix("Fast").removesuffix("Tokenizer")
    by_5 = config.get("backend") == "tokenizers"
    family = family_of(name, by_5)

    overrides = checked(overrides, family, config, class_name or "this tokenizer")
    settings: dict[str, Any] = {**family.defaults, **config, **overrides}
    declared = _read_special_tokens(folder, settings, overrides, tokenizer)
    _take_baked_in(settings, family, tokenizer)
    special = _special_tokens(name, family, settings, by_5)
    _add_tokens(tokenizer, declared, special)
    named = {key: str(token) for key, token in special.items() if key in TOKEN_NAMES}
    if not by_5 or not ADJUSTING.isdisjoint(overrides):
        adjust(tokenizer, family, settings, named)
    elif family.language is not None:
        # Saved as the tokenizer stood, which may be for texts in the target's language.
        set_language(tokenizer, family, settings, named["eos_token"])

    limit = settings.get("model_max_length", settings.get("max_len"))
    return tokenizer, Settings(
        family=family,
        class_name=class_name,
        special_tokens={key: str(special[key]) if key in special else None for key in TOKEN_NAMES},
        additional_special_tokens=[str(token) for token in special.get(ADDITIONAL, [])],
        extra_special_tokens={
            key: str(token) for key, token in special.items() if key not in TOKEN_NAMES and key != ADDITIONAL
        },
        model_input_names=list(settings.get("model_input_names", family.model_input_names)),
        model_max_length=VERY_LARGE_INTEGER if limit is None else int(limit),
        padding_side=check_side("padding_side", settings.get("padding_side", family.padding_side)),
        truncation_side=check_side("truncation_side", settings.get("truncation_side", "right")),
        clean_up_tokenization_spaces=bool(settings.get("clean_up_tokenization_spaces", False)),
        can_clean_up=not (by_5 and type(tokenizer.model).__name__ == "BPE") or bool(settings.get(CLEAN_UP_BPE)),
        split_special_tokens=bool(settings.get("split_special_tokens", False)),
        add_prefix_space=bool(settings.get("add_prefix_space", False)),
        chat_template=_chat_template(folder, settings),
        name_or_path=name_or_path or str(folder),
        init_kwargs=settings,
    )


def check_side(name: str, value: object) -> str:
    """Raise InputError unless `value` is "left" or "right"; return it."""
    if value not in ("left", "right"):
        raise InputError(f'{name} is "left" or "right", not {value!r}')
    return str(value)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise FormatError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def _class_name(folder: Path, config: Mapping[str, Any]) -> str:
    name = config.get("tokenizer_class")
    if name is None:
        model = _read(folder / "config.json")
        name = model.get("tokenizer_class") or TOKENIZER_OF.get(str(model.get("model_type")))
    return str(name or "")


def _token(value: Any) -> Any:
    """A special token as JSON has it, a string or an object, as a string or an AddedToken."""
    if isinstance(value, Mapping) and "content" in value:
        return AddedToken(**{key: flag for key, flag in value.items() if key != "__type"})
    if isinstance(value, list | tuple):
        return [_token(item) for item in value]
    return value


def _read_special_tokens(
    folder: Path, settings: dict[str, Any], overrides: Mapping[str, Any], tokenizer: RustTokenizer
) -> dict[int, AddedToken]:
    """Complete `settings` with the special tokens that older files keep apart.

    Returns the added tokens that the files declare, by id.
    """
    declared: dict[int, AddedToken] = {}
    recorded = settings.get("added_tokens_decoder")
    if recorded is not None:
        declared = {int(index): _token(token) for index, token in recorded.items()}
    else:
        for key, value in _read(folder / "special_tokens_map.json").items():
            if overrides.get(key):
                continue
            value = _token(value)
            if key == ADDITIONAL and isinstance(value, list):
                # Each once, where it is first named and as it is last described.
                value = list(
                    {str(token): token for token in [*_token(settings.get(ADDITIONAL) or []), *value]}.values()
                )
            for token in value if isinstance(value, list) else [value]:
                if isinstance(token, AddedToken):
                    token.special = True
            settings[key] = value
        specials = {str(_token(settings[key])) for key in TOKEN_NAMES if settings.get(key) is not None}
        specials |= {str(token) for token in _token(settings.get(ADDITIONAL) or [])}
        for content, index in _read(folder / "added_tokens.json").items():
            special = content in specials
            declared[index] = AddedToken(content, normalized=not special, special=special)
        declared |= tokenizer.get_added_tokens_decoder()

    by_content = {str(token): token for token in declared.values()}
    for key in (*TOKEN_NAMES, ADDITIONAL, "extra_special_tokens"):
        if settings.get(key) is None:
            continue
        if isinstance(settings[key], dict) and key == "extra_special_tokens":
            settings[key] = {name: _token(token) for name, token in settings[key].items()}
        else:
            settings[key] = _token(settings[key])
        if key in TOKEN_NAMES:
            settings[key] = by_content.get(str(settings[key]), settings[key])
    return declared


def _take_baked_in(settings: dict[str, Any], family: Family, tokenizer: RustTokenizer) -> None:
    """The truncation and padding inside `tokenizer.json` are not kept, but they name sides and a pad token."""
    if (truncation := tokenizer.truncation) is not None:
        settings.setdefault("truncation_side", truncation["direction"])
    if (padding := tokenizer.padding) is not None:
        settings.setdefault("padding_side", padding["direction"])
        if "pad_token" not in family.special_tokens:
            settings.setdefault("pad_token", padding["pad_token"])


def _special_tokens(name: str, family: Family, settings: Mapping[str, Any], by_5: bool) -> dict[str, Any]:
    """The special tokens by name, in transformers' order: the seven, the additional ones, the model's own."""
    special: dict[str, Any] = {}
    for key in TOKEN_NAMES:
        value = settings.get(key, family.special_tokens.get(key))
        if value is not None:
            special[key] = family.token(key, value)

    own = settings.get("extra_special_tokens") or {}
    additional = settings.get(ADDITIONAL, list(family.additional_special_tokens) or None)
    if isinstance(own, list):
        # transformers 5 saves under this name what 4 calls additional.
        additional, own = additional or own, {}
    if by_5:
        # It names the model's own beside the seven, and has written down what a class numbers itself.
        named = (key for key, value in settings.items() if key.endswith("_token") and isinstance(value, str))
        own = own | {key: settings[key] for key in named if key not in TOKEN_NAMES}
    else:
        additional = implied_additional_tokens(name, additional, settings)
    if additional:
        special[ADDITIONAL] = list(additional)
    return special | own


def _add_tokens(tokenizer: RustTokenizer, declared: Mapping[int, AddedToken], special: Mapping[str, Any]) -> None:
    """Make the Rust tokenizer know every declared and every special token, with its flags."""
    present = tokenizer.get_added_tokens_decoder()
    as_present = {repr(token) for token in present.values()}
    to_add: list[str | AddedToken] = [token for _, token in sorted(declared.items()) if repr(token) not in as_present]

    known = {str(token) for token in present.values()} | {str(token) for token in to_add}
    contents: set[str] = set()
    for value in special.values():
        for token in value if isinstance(value, list) else [value]:
            # One with flags of its own replaces a token that is there already, flags and all.
            if str(token) not in contents and (isinstance(token, AddedToken) or token not in known):
                to_add.append(token)
            contents.add(str(token))

    ready = []
    for token in to_add:
        if isinstance(token, AddedToken):
            token.special = token.special or str(token) in contents
        else:
            token = AddedToken(token, special=token in contents)
        ready.append(token)
    if ready:
        tokenizer.add_tokens(ready)


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | dict[str, str] | None:
    found = {}
    if (default := folder / "chat_template.jinja").is_file():
        found["default"] = default.read_text(encoding="utf-8")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = path.read_text(encoding="utf-8")
    if found:
        return found["default"] if set(found) == {"default"} else found
    template = settings.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return template
