"""Adds tokens to a tokenizer, and saves it to a folder that transformers and untorch read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken

from untorch.bundle.arguments import Rule, refuse_others
from untorch.errors import InputError
from untorch.tokenizer.overrides import ADDITIONAL, TOKEN_NAMES

_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
# What a special token is that is given as a plain string: matched in the raw text, spaces around it kept.
_PLAIN = {"lstrip": False, "rstrip": False, "normalized": False, "special": True}

# transformers 5's name for the additional ones.
_EXTRA = "extra_special_tokens"

# Arguments of save_pretrained that have no effect or cannot be had.
SAVING: Mapping[str, Rule] = {
    "legacy_format": Rule((False,), "the files are those of fast tokenizers, which every version reads"),
    "push_to_hub": Rule((False,), "upload the folder with huggingface_hub"),
    "save_format": Rule((), "the files are those of transformers 4.57, which every version reads"),
}

Token: TypeAlias = "str | AddedToken"


class Editing:
    """What changes a tokenizer, and how it is written down. Not to be used while other threads encode."""

    def add_tokens(self: Any, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens to the end of the vocabulary; those that are there already keep their ids.

        Returns how many are new; nothing, or an empty str, is none. A model knows only the ids that it was exported
        with: it refuses new ones. Raises InputError for anything that is not a token.
        """
        new = new_tokens or ()
        tokens = [new] if isinstance(new, str | AddedToken) else list(new)
        for token in tokens:
            if not isinstance(token, str | AddedToken) or not str(token):
                raise InputError(f"a token is a str that is not empty, or an AddedToken, not {token!r}")
        count: int = self._backend.add(tokens, special=special_tokens)
        return count

    def add_special_tokens(
        self: Any,
        special_tokens_dict: Mapping[str, Token | Sequence[Token]],
        replace_additional_special_tokens: bool = True,
        replace_extra_special_tokens: bool | None = None,
    ) -> int:
        """Set special tokens by name (`pad_token`, `additional_special_tokens`, …), and add those that are new.

        transformers 5 calls the additional ones `extra_special_tokens`, here and in `replace_extra_special_tokens`.
        Returns how many are new to the vocabulary. Raises InputError for a name that is no special token's.
        """
        names = (*TOKEN_NAMES, ADDITIONAL, _EXTRA)
        if unknown := [name for name in special_tokens_dict if name not in names]:
            raise InputError(f"{', '.join(unknown)}: the special tokens are called {', '.join(names)}")
        replaces = replace_additional_special_tokens
        if replace_extra_special_tokens is not None:
            replaces = replace_extra_special_tokens
        added = 0
        for name, value in special_tokens_dict.items():
            name = ADDITIONAL if name == _EXTRA else name
            tokens = _special(name, value)
            added += self.add_tokens(tokens, special_tokens=True)
            if name == ADDITIONAL:
                kept = [] if replaces else self.additional_special_tokens
                self.additional_special_tokens = list(dict.fromkeys([*kept, *map(str, tokens)]))
            else:
                setattr(self, name, str(tokens[0]))
        return added

    def save_pretrained(
        self: Any,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        *,
        save_jinja_files: bool = True,
        **others: Any,
    ) -> tuple[str, ...]:
        """Write the tokenizer into a folder, made if need be, in the files of transformers 4.57.

        Returns the files' paths. transformers and untorch read the same tokenizer from them. Chat templates are files
        of their own, or with `save_jinja_files=False` part of tokenizer_config.json. Raises InputError where
        `save_directory` is a file, for `legacy_format=True` (the vocabulary files of slow tokenizers), for
        `push_to_hub=True`, and for transformers' other arguments, by name.
        """
        others |= {"legacy_format": legacy_format, "push_to_hub": push_to_hub}
        refuse_others(others, SAVING, ("filename_prefix", "save_jinja_files"), "save_pretrained")
        folder = Path(save_directory)
        if folder.is_file():
            raise InputError(f"{folder} is a file; name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        settings = self._saved_settings()
        templates = _templates(self.chat_template) if save_jinja_files else {}
        if not save_jinja_files and self.chat_template is not None:
            settings["chat_template"] = _listed(self.chat_template)
        written = {f"{prefix}{name}": text for name, text in templates.items()}
        written[f"{prefix}tokenizer_config.json"] = _json(settings)
        written[f"{prefix}special_tokens_map.json"] = _json(_described(self, self.special_tokens_map))
        written[f"{prefix}tokenizer.json"] = self.backend_tokenizer.to_str(pretty=True)
        for name, text in written.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tuple(str(folder / name) for name in written)

    def _saved_settings(self: Any) -> dict[str, Any]:
        """The content of tokenizer_config.json: what was read from there, as it is now."""
        settings = {name: value for name, value in self.init_kwargs.items() if name != "chat_template"}
        for name in (*TOKEN_NAMES, ADDITIONAL, "extra_special_tokens"):
            settings.pop(name, None)
        settings |= {
            "added_tokens_decoder": {
                str(index): {flag: getattr(token, flag) for flag in _FLAGS if flag != "content"}
                | {"content": token.content}
                for index, token in sorted(self.added_tokens_decoder.items())
            },
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "model_input_names": list(self.model_input_names),
            "extra_special_tokens": dict(self._extra_special_tokens),
            **{name: self._special_tokens[name] for name in TOKEN_NAMES},
        }
        if self.additional_special_tokens:
            settings[ADDITIONAL] = list(self.additional_special_tokens)
        if self.class_name:
            settings["tokenizer_class"] = self.class_name
        return settings


def _special(name: str, value: Token | Sequence[Token]) -> list[AddedToken]:
    """One or more special tokens as `AddedToken`s. Raises InputError for a value of the wrong kind."""
    many = name == ADDITIONAL
    values: Iterable[Any] = value if many and isinstance(value, list | tuple) else [value]
    tokens = []
    for token in values:
        if not isinstance(token, str | AddedToken):
            wanted = "a list of tokens" if many else "one token"
            raise InputError(f"{name} is {wanted}, each a str or an AddedToken; got {value!r}")
        tokens.append(AddedToken(token, **_PLAIN) if isinstance(token, str) else token)
    return tokens


def _templates(template: str | Mapping[str, str] | None) -> dict[str, str]:
    """The chat templates by file name, as transformers keeps them."""
    if template is None:
        return {}
    if isinstance(template, str):
        return {"chat_template.jinja": template}
    return {
        "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja": text
        for name, text in template.items()
    }


def _listed(template: str | Mapping[str, str]) -> str | list[dict[str, str]]:
    """The chat templates as tokenizer_config.json has them."""
    if isinstance(template, str):
        return template
    return [{"name": name, "template": text} for name, text in template.items()]


def _described(tokenizer: Any, named: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """The special tokens by name, with the flags that they are matched by."""
    by_content = {token.content: token for token in tokenizer.added_tokens_decoder.values()}

    def describe(token: str) -> Any:
        if token not in by_content:
            return token
        return {flag: getattr(by_content[token], flag) for flag in _FLAGS if flag != "special"}

    return {
        name: [describe(token) for token in value] if isinstance(value, list) else describe(value)
        for name, value in named.items()
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str) + "\n"
