"""transformers' arguments of the three `from_pretrained`, in one table: those that say where files come from, those
that change nothing here, and those that cannot be had, with what to do instead.
"""  # noqa: D205

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple, NoReturn, TypedDict

from untorch.errors import InputError


class Rule(NamedTuple):
    """A name that untorch knows and takes no value from, other than None and those in `neutral`.

    `neutral` None: every value is accepted, and none changes an answer. `why` is the reason, and what to do instead.
    """

    neutral: tuple[Any, ...] | None
    why: str

    def check(self, name: str, value: Any, where: str) -> None:
        """Raise InputError for a value that would have to change something."""
        if value is None or self.neutral is None:
            return
        if not any(type(value) is type(one) and value == one for one in self.neutral):
            raise InputError(f"{where} takes no {name}={value!r}: {self.why}")

    @property
    def outcome(self) -> str:
        """What becomes of the argument, for the table of the docs."""
        if self.neutral is None:
            return f"accepted without effect: {self.why}"
        unless = f" unless {' or '.join(f'`{value!r}`' for value in self.neutral)}" if self.neutral else ""
        return f"refused{unless}: {self.why}"


class Source(TypedDict, total=False):
    """Where files come from and how they are fetched, by transformers' names; see `hub.resolve`."""

    revision: str | None
    subfolder: str
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    force_download: bool


_OFF = (False, "auto")


def _no_effect(why: str) -> Rule:
    return Rule(None, why)


def _refused(why: str) -> Rule:
    # False and "auto" ask for nothing.
    return Rule(_OFF, why)


_EXPORTED = "it is settled when a checkpoint is exported: run `untorch export` on a checkpoint that has it"
_FILES = "name a folder that holds a tokenizer.json"

# Of every `from_pretrained`.
_OF_ALL: Mapping[str, Rule] = {
    "code_revision": _refused("a bundle has no code; revision= names the bundle's"),
    "gguf_file": _refused(_EXPORTED),
    "mirror": _refused("set the environment variable HF_ENDPOINT"),
    "proxies": _refused("set the environment variables HTTP_PROXY and HTTPS_PROXY"),
    "resume_download": _no_effect("downloads always resume"),
    "tqdm_class": _no_effect("it draws the progress of downloads"),
    "trust_remote_code": _no_effect("a bundle has no code that could be run"),
    "use_auth_token": _refused("pass token="),
}

_DTYPE = _refused("the bundle's variants are its types: pass precision='fp32' or precision='fp16'")
_SMALLER = _refused("pass precision='int8'")
_DEVICE = _refused("pass device='cpu', device='cuda' or device='cuda:1'")
_SETTLED = _refused(_EXPORTED)
_LOADED = _no_effect("a bundle's weights are mapped from its own files, and nothing in it is ever unpickled")

MODEL: Mapping[str, Rule] = {
    **_OF_ALL,
    "adapter_kwargs": _SETTLED,
    "adapter_name": _SETTLED,
    "allow_all_kernels": _LOADED,
    "attn_implementation": _no_effect("how attention is computed was settled by the export"),
    "config": _SETTLED,
    "decoder_file_name": _refused("only an encoder-decoder has one"),
    "device_map": _DEVICE,
    "device_mesh": _DEVICE,
    "disable_mmap": _LOADED,
    "distributed_config": _DEVICE,
    "dtype": _DTYPE,
    "encoder_file_name": _refused("only an encoder-decoder has one"),
    "experts_implementation": _no_effect("how experts are computed was settled by the export"),
    "export": _refused("run `untorch export` and load the folder that it writes"),
    "file_name": _refused(
        "name the variant: precision='fp32', or an encoder-decoder's encoder_file_name and decoder_file_name"
    ),
    "from_flax": _SETTLED,
    "from_tf": _SETTLED,
    "fusion_config": _SETTLED,
    "generation_config": _refused("pass it to generate"),
    "ignore_mismatched_sizes": _LOADED,
    "kernel_config": _LOADED,
    "key_mapping": _SETTLED,
    "load_in_4bit": _SMALLER,
    "load_in_8bit": _SMALLER,
    "low_cpu_mem_usage": _LOADED,
    "max_memory": _DEVICE,
    "offload_buffers": _LOADED,
    "offload_folder": _DEVICE,
    "offload_state_dict": _LOADED,
    "output_loading_info": _refused("loading reports by errors alone"),
    "provider": _DEVICE,
    "quantization_config": _SMALLER,
    "session_options": _refused("pass threads=N"),
    "state_dict": _SETTLED,
    "torch_dtype": _DTYPE,
    "tp_plan": _DEVICE,
    "tp_size": _DEVICE,
    "use_kernels": _LOADED,
    "use_safetensors": _LOADED,
    "variant": _refused("name the variant: precision='fp16'"),
    "weights_only": _LOADED,
}

TOKENIZER: Mapping[str, Rule] = {
    **_OF_ALL,
    "backend": _refused("untorch has the tokenizers of the Rust library only"),
    "config": _refused("the folder's own config.json is read"),
    "chat_control_tokens": _refused("sanitize_control_tokens, which reads it, is not supported"),
    "errors": _no_effect("bytes that are no text are always decoded as the replacement character"),
    "fix_mistral_regex": _refused("write the tokenizer.json anew with transformers, which mends it"),
    "from_slow": _refused("write the tokenizer.json anew with transformers, from_slow=True and save_pretrained"),
    "legacy": _no_effect("what it decides is written in tokenizer.json"),
    "max_length": _refused("it is an argument of the tokenizer's call; model_max_length is the tokenizer's own limit"),
    "merges": _refused(_FILES),
    "merges_file": _refused(_FILES),
    "mistral_format": _refused(_FILES),
    "name_or_path": _refused("it is where the tokenizer was read from"),
    "padding": _refused("it is an argument of the tokenizer's call; padding_side is the tokenizer's own"),
    "processor_class": _no_effect("untorch runs text tasks"),
    "response_schema": _refused("read the answer yourself"),
    "response_template": _refused("read the answer yourself"),
    "return_tensors": _refused("it is an argument of the tokenizer's call"),
    "tokenizer_file": _refused(_FILES),
    "tokenizer_object": _refused(_FILES),
    "tokenizer_type": _refused("the class is the one that the folder names"),
    "tokenizer_class": _refused("the class is the one that the folder names"),
    "truncation": _refused("it is an argument of the tokenizer's call; truncation_side is the tokenizer's own"),
    "use_fast": Rule((True,), "untorch has fast tokenizers only"),
    "verbose": _no_effect("it only silences warnings"),
    "vocab": _refused(_FILES),
    "vocab_file": _refused(_FILES),
}

CONFIG: Mapping[str, Rule] = _OF_ALL


def take_source(arguments: MutableMapping[str, Any]) -> Source:
    """Take what says where files come from out of `arguments`, so that only the caller's own are left.

    Raises InputError for a value of the wrong
    type.
    """
    source: dict[str, Any] = {}
    for name, (kinds, wanted) in _SOURCE_TYPES.items():
        value = arguments.pop(name, None)
        if value is None:
            continue
        if not isinstance(value, kinds):
            raise InputError(f"{name} is {value!r}; it is {wanted}")
        source[name] = value
    return source  # type: ignore[return-value]


_NAME = ((str,), "a text")
_SWITCH = ((bool,), "True or False")
_SOURCE_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "revision": _NAME,
    "subfolder": _NAME,
    "token": ((str, bool), "a text, True or False"),
    "cache_dir": ((str, os.PathLike), "a folder"),
    "local_files_only": _SWITCH,
    "force_download": _SWITCH,
}


def refuse_others(arguments: Mapping[str, Any], rules: Mapping[str, Rule], own: Iterable[str], owner: str) -> None:
    """Raise InputError for the first of these arguments that changes something and that nobody takes.

    `own` are the names that the `owner`, a function, does take: they are suggested for a name that is misspelt.
    """
    for name, value in arguments.items():
        if name not in rules:
            refuse_unknown(name, [*own, *Source.__annotations__, *rules], owner)
        rules[name].check(name, value, owner)


def refuse_unknown(name: str, known: Iterable[str], owner: str) -> NoReturn:
    """Raise InputError for a name that is no argument of the `owner`, with the nearest of those that are."""
    import difflib  # here: only a mistake should pay for it

    near = difflib.get_close_matches(name, list(known), 1)
    raise InputError(f"{owner} takes no argument {name}" + (f"; did you mean {near[0]}?" if near else ""))
