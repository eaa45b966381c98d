"""Writes docs/arguments.md: every argument of transformers' that untorch knows, and what becomes of it.

    python docs/arguments.py

All of it is read from the tables that the runtime itself goes by; a test compares the page with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import untorch
from untorch.bundle.arguments import CONFIG, MODEL, TOKENIZER, Rule, Source
from untorch.bundle.auto import AutoConfig
from untorch.generation import config as generation
from untorch.model import inputs
from untorch.model.base import AutoModel
from untorch.pipelines import TASKS, class_of, compatibility
from untorch.pipelines.arguments import READ
from untorch.tokenizer import Tokenizer, chat, editing, overrides, strategies, vocabulary

PAGE = Path(__file__).with_suffix(".md")

TAKEN = "taken"
_OWN_SETTING = "taken; where the tokenizer's class does not follow it, only `None` and `False` are"

_FILES = {
    "file_name": "taken where a folder has no manifest; else refused: name the variant: precision='fp32'",
    **dict.fromkeys(
        ("encoder_file_name", "decoder_file_name"),
        "taken by AutoModelForSeq2SeqLM where a folder has no manifest; else refused: name the variant",
    ),
}

# Methods of the tokenizer: name → what of transformers' arguments is known besides those of its own signature.
METHODS: Mapping[str, Mapping[str, Rule]] = {
    "encode": strategies.RULES,
    "tokenize": strategies.RULES,
    "pad": {},
    "decode": vocabulary.DECODING,
    "batch_decode": vocabulary.DECODING,
    "convert_ids_to_tokens": {},
    "convert_tokens_to_ids": {},
    "add_tokens": {},
    "add_special_tokens": {},
    "save_pretrained": editing.SAVING,
    "get_chat_template": {},
    "get_special_tokens_mask": {},
    "num_special_tokens_to_add": {},
    "prepare_for_model": {},
    "truncate_sequences": {},
    "build_inputs_with_special_tokens": {},
    "create_token_type_ids_from_sequences": {},
}

INTRODUCTION = """\
# Arguments

What becomes of each argument of `transformers` (4.57 and 5). *Taken*: it does what it does there. *Refused*: an
`InputError` names it and says what to do. *Accepted without effect*: whatever it is, the answer is the same. None
always stands for the default. A name that is on no list is refused with the nearest that is.

`python docs/arguments.py` writes this page from the tables that the code goes by.
"""


def own(function: Callable[..., Any]) -> list[str]:
    """The names of a function's arguments, without those that collect others."""
    collecting = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [
        name for name, one in signature(function).parameters.items() if one.kind not in collecting and name != "self"
    ]


def _taken(names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, TAKEN)


def _ruled(rules: Mapping[str, Rule]) -> dict[str, str]:
    return {name: rule.outcome for name, rule in rules.items()}


def sections() -> Iterator[tuple[str, dict[str, str]]]:
    """(where, what becomes of each argument by name) for everything that is called."""
    yield (
        "AutoModel….from_pretrained",
        _ruled(MODEL) | _FILES | _taken([*own(AutoModel.from_pretrained), *Source.__annotations__]),
    )
    yield (
        "AutoTokenizer.from_pretrained",
        _ruled(TOKENIZER)
        | _taken([*own(Tokenizer.from_pretrained), *Source.__annotations__, *overrides.SETTINGS])
        | dict.fromkeys(overrides.FOR_SOME, _OWN_SETTING),
    )
    yield (
        "AutoConfig.from_pretrained",
        _ruled(CONFIG)
        | _taken([*own(AutoConfig.from_pretrained), *Source.__annotations__])
        | {"any attribute of the config": TAKEN},
    )
    yield "pipeline", _ruled(compatibility.LOADING) | _taken([*own(untorch.pipeline), *READ])
    for task in TASKS:
        kind = class_of(task)
        yield f"a call of {task}", _ruled(kind.rules) | _taken(kind.arguments())
    yield "a call of a model", _model()
    yield "generate", _ruled(generation.RULES) | _taken(own(untorch.AutoModelForCausalLM.generate))
    yield "GenerationConfig", _settings()
    yield "a call of a tokenizer", _ruled(strategies.RULES) | _taken(own(Tokenizer.__call__))
    yield (
        "tokenizer.apply_chat_template",
        _ruled(chat.RULES) | _taken(own(Tokenizer.apply_chat_template)) | {"any other name": "passed to the template"},
    )
    for name, rules in METHODS.items():
        options = strategies.CallOptions._fields if rules is strategies.RULES else ()
        yield f"tokenizer.{name}", _ruled(rules) | _taken([*own(getattr(Tokenizer, name)), *options])


def _model() -> dict[str, str]:
    found = {name: f"refused: {why}" for name, why in inputs.REFUSED.items()}
    found |= dict.fromkeys(inputs.FROM_TOKENIZERS, "accepted without effect: a tokenizer gives it for its caller")
    found |= {"use_cache": "taken by models that generate; else accepted without effect", "return_dict": TAKEN}
    found["position_ids"] = "taken by AutoModelForCausalLM, and where the graph has it; else refused"
    found["past_key_values"] = f"taken by AutoModelForCausalLM; else refused: {inputs.REFUSED['past_key_values']}"
    return found | _taken([*own(AutoModel.__call__), "decoder_input_ids"])


def _settings() -> dict[str, str]:
    found = _taken(generation.DEFAULTS)
    found |= {name: f"refused unless `{value!r}`" for name, value in generation.UNSUPPORTED.items()}
    return found | dict.fromkeys(
        sorted(generation.IGNORED), "accepted without effect: it is how PyTorch runs the model"
    )


def page() -> str:
    """The page as it has to be."""
    parts = [INTRODUCTION]
    for where, outcomes in sections():
        taken = sorted(name for name, what in outcomes.items() if what == TAKEN)
        parts.append(f"## {where}\n\nTaken: {', '.join(f'`{name}`' for name in taken)}.\n")
        others: dict[str, list[str]] = {}
        for name, what in sorted(outcomes.items()):
            if what != TAKEN:
                others.setdefault(what, []).append(f"`{name}`")
        if others:
            rows = "\n".join(f"| {', '.join(names)} | {what} |" for what, names in others.items())
            parts.append(f"| argument | what becomes of it |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
