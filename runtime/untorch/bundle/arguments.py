"""transformers' arguments of `from_pretrained`, in one table: those that say where files come from, those that change
nothing here, and those that cannot be had, with what to do instead.
"""  # noqa: D205

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping
from typing import Any, TypedDict

from untorch.errors import InputError


class Source(TypedDict, total=False):
    """Where files come from and how they are fetched, by transformers' names; see `hub.resolve`."""

    revision: str | None
    subfolder: str
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    force_download: bool


# Whatever is asked for with these, it is what is done anyway or has no part in what a bundle computes.
HARMLESS = {
    "allow_all_kernels",
    "attn_implementation",  # how attention is computed was settled by the export
    "disable_mmap",
    "experts_implementation",
    "ignore_mismatched_sizes",
    "kernel_config",
    "low_cpu_mem_usage",  # weights are mapped, never copied
    "offload_buffers",
    "offload_state_dict",
    "resume_download",  # downloads always resume
    "tqdm_class",
    "trust_remote_code",  # there is no code in a bundle
    "use_kernels",
    "use_safetensors",
    "weights_only",  # nothing in a bundle is ever unpickled
}

_DTYPE = "the bundle's variants are its types: pass precision='fp32' or precision='fp16'"
_SMALLER = "pass precision='int8'"
_DEVICE = "pass device='cpu', device='cuda' or device='cuda:1'"
_EXPORTED = "it is settled when a checkpoint is exported: run `untorch export` on a checkpoint that has it"

# Name → what to do in its place. None, False and "auto" ask for nothing.
REFUSED = {
    "adapter_kwargs": _EXPORTED,
    "adapter_name": _EXPORTED,
    "config": _EXPORTED,
    "device_map": _DEVICE,
    "device_mesh": _DEVICE,
    "distributed_config": _DEVICE,
    "dtype": _DTYPE,
    "decoder_file_name": "only an encoder-decoder has one",
    "encoder_file_name": "only an encoder-decoder has one",
    "export": "run `untorch export` and load the folder that it writes",
    "file_name": "name the variant: precision='fp32', or an encoder-decoder's encoder_file_name and decoder_file_name",
    "from_flax": _EXPORTED,
    "from_tf": _EXPORTED,
    "fusion_config": _EXPORTED,
    "generation_config": "pass it to generate",
    "gguf_file": _EXPORTED,
    "key_mapping": _EXPORTED,
    "load_in_4bit": _SMALLER,
    "load_in_8bit": _SMALLER,
    "max_memory": _DEVICE,
    "mirror": "set the environment variable HF_ENDPOINT",
    "offload_folder": _DEVICE,
    "output_loading_info": "loading reports by errors alone",
    "provider": _DEVICE,
    "proxies": "set the environment variables HTTP_PROXY and HTTPS_PROXY",
    "quantization_config": _SMALLER,
    "session_options": "pass threads=N",
    "state_dict": _EXPORTED,
    "torch_dtype": _DTYPE,
    "tp_plan": _DEVICE,
    "tp_size": _DEVICE,
    "use_auth_token": "pass token=",
    "variant": "name the variant: precision='fp16'",
}


def take_source(arguments: MutableMapping[str, Any]) -> Source:
    """Take what says where files come from out of `arguments`, so that only the caller's own are left."""
    return {name: arguments.pop(name) for name in Source.__annotations__ if name in arguments}  # type: ignore[return-value]


def refuse_others(arguments: MutableMapping[str, Any], own: Iterable[str], owner: str) -> None:
    """Raise InputError for the first of these arguments that changes something and that nobody takes.

    `own` are the names that the `owner`, a function, does take: they are suggested for a name that is misspelt.
    """
    for name, value in arguments.items():
        if name in HARMLESS:
            continue
        if name in REFUSED:
            if value is None or value is False or (isinstance(value, str) and value == "auto"):
                continue
            raise InputError(f"{owner} takes no {name} (given: {value!r}); {REFUSED[name]}")
        import difflib  # here: only a mistake should pay for it

        near = difflib.get_close_matches(name, [*own, *Source.__annotations__], 1)
        raise InputError(f"{owner} takes no argument {name}" + (f"; did you mean {near[0]}?" if near else ""))
