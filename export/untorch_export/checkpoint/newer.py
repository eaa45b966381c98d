"""Configs that a newer transformers wrote: read with the meaning they were written with, or refused by name.

A library passes over keys that it does not know, and computes something else without a word: transformers 4 reads
neither `rope_parameters` nor ModernBERT's `layer_types`. Where an older key says the same, it is put in its place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from untorch_export.errors import ExportError

# Unknown keys that change no answer: how weights are kept, how a model is trained or run, what wrote the file.
_HARMLESS = frozenset(
    {
        *("_commit_hash", "_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
        *("output_router_logits", "router_aux_loss_coef", "use_associative_scan", "use_cache", "use_mambapy"),
        *("attn_implementation", "_attn_implementation", "experts_implementation", "base_model_tp_plan"),
        *("finetuning_task", "language", "license", "tags", "num_nextn_predict_layers", "quantization_config"),
    }
)
# Rotary types whose parameters transformers 4 has in `rope_scaling`, under the same names.
_ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
# model_type → the older keys for the base of full and of sliding attention.
_ROPE_BASES = {
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
}
_LAYERS = {"full_attention": 0, "sliding_attention": 1}


def understood(folder: Path, raw: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """A config in the words of the installed transformers; `raw` itself where it needs no translation.

    `known` are the keys of the installed config class, with their defaults. Raises ExportError, naming them, for keys
    of a newer version that it would pass over.
    """
    if not _is_newer(raw):
        return raw
    config = dict(raw)
    if "rope_parameters" in config and "rope_parameters" not in known:
        config |= _rotary(config, known, config.pop("rope_parameters") or {})
    if "layer_types" in config and "layer_types" not in known:
        config |= _layers(config, known)
    # T5 5 says by itself what 4 takes from the tied embeddings.
    says_the_same = config.get("scale_decoder_outputs") == config.get("tie_word_embeddings", True)
    if says_the_same and "scale_decoder_outputs" not in known:
        config.pop("scale_decoder_outputs", None)
    unknown = sorted(key for key in config if key not in known and key not in _HARMLESS and config[key] is not None)
    if unknown:
        raise ExportError(
            f"{folder / 'config.json'} was written by transformers {raw['transformers_version']}, and {_installed()} "
            f"does not know its {', '.join(unknown)}; upgrade transformers and export again"
        )
    return config


def _is_newer(raw: dict[str, Any]) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(str(raw.get("transformers_version"))).release[:2] > Version(_installed()).release[:2]
    except InvalidVersion:
        return "rope_parameters" in raw


def _installed() -> str:
    import transformers

    return str(transformers.__version__)


def _rotary(config: dict[str, Any], known: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """The older keys for `rope_parameters`; the key itself, for `understood` to name, where there are none."""
    left = {"rope_parameters": rope}
    bases = _ROPE_BASES.get(str(config.get("model_type")))
    if rope.keys() == _LAYERS.keys():
        plain = all(set(item) <= {"rope_type", "rope_theta"} for item in rope.values())
        plain = plain and all(item.get("rope_type", "default") == "default" for item in rope.values())
        if bases is None or not plain:
            return left
        return {key: rope[layer]["rope_theta"] for key, layer in zip(bases, _LAYERS, strict=True)}
    kind = rope.get("rope_type", "default")
    rest = {key: value for key, value in rope.items() if key not in ("rope_type", "rope_theta")}
    found: dict[str, Any] = {}
    for key in ("rope_theta", "partial_rotary_factor"):
        value = rope.get(key, rest.pop(key, None))
        if value is not None:
            found[key] = value
    scaled = kind != "default"
    if kind not in _ROPE_TYPES or not found.keys() <= known.keys() or (scaled and "rope_scaling" not in known):
        return left
    if scaled:
        found["rope_scaling"] = {"rope_type": kind, **rest}
    elif rest:
        return left
    return found


def _layers(config: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """ModernBERT's `layer_types` as the distance between layers of full attention, where that says the same."""
    types = config["layer_types"]
    if "global_attn_every_n_layers" not in known:
        return {}
    for every in range(1, len(types) + 1):
        if types == ["sliding_attention" if index % every else "full_attention" for index in range(len(types))]:
            config.pop("layer_types")
            return {"global_attn_every_n_layers": every}
    return {}


def defaults(kind: Any) -> dict[str, Any]:
    """Every key that a config class knows, with its default."""
    values: dict[str, Any] = json.loads(kind().to_json_string(use_diff=False))
    return {**dict.fromkeys(kind.attribute_map), **dict.fromkeys(vars(kind())), **values}
