"""Folders that are no checkpoint untorch could export, each refused by what it is and with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from untorch.bundle.folder import read_json
from untorch_export.errors import ExportError

# What a model's first input is called in transformers, where it is no text → what the model reads.
_OTHER_INPUTS = {
    "pixel_values": "images",
    "pixel_values_videos": "videos",
    "input_features": "speech",
    "input_values": "speech",
    "audio_values": "audio",
    "bbox": "images",
}
# Parts of a config that only a model of several kinds of input has.
_OTHER_PARTS = {"vision_config": "images", "audio_config": "audio", "speech_config": "speech"}


def refuse_parts(root: Path) -> None:
    """Raise ExportError for a folder of an adapter, whose weights mean nothing alone, and for one of GGUF weights."""
    gguf = sorted(path.name for path in root.glob("*.gguf"))
    if gguf and not any(root.glob("*.safetensors")) and not any(root.glob("*.bin")):
        raise ExportError(
            f"{root} has its weights as GGUF ({gguf[0]}); "
            f"write them as safetensors first: from_pretrained(folder, gguf_file={gguf[0]!r}).save_pretrained(other)"
        )
    path = root / "adapter_config.json"
    if not path.is_file():
        return
    config = read_json(path)
    base = Path(str(config.get("base_model_name_or_path") or "not named")).name
    raise ExportError(
        f"{root} holds an adapter ({config.get('peft_type', 'PEFT')}, its base is {base}), not a whole model; "
        "merge it first, with peft: AutoPeftModel….from_pretrained(folder).merge_and_unload().save_pretrained(merged), "
        "and export what that writes"
    )


def refuse_quantized(folder: Path, raw: dict[str, Any]) -> None:
    """Raise ExportError for weights that are kept in fewer bits, such as GPTQ, AWQ or bitsandbytes."""
    settings = raw.get("quantization_config") or raw.get("compression_config")
    if settings:
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        if method is None and isinstance(settings, dict) and any("bnb" in key or "load_in" in key for key in settings):
            method = "bitsandbytes"
        raise ExportError(
            f"{folder} has quantized weights ({method or 'quantization_config in config.json'}); "
            "export the checkpoint that they were made from; untorch makes its own int8 of it"
        )


def refuse_other_inputs(folder: Path, raw: dict[str, Any]) -> None:
    """Raise ExportError for a model that reads something else than text, or beside it."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    names = raw.get("architectures") or [MODEL_MAPPING_NAMES.get(str(raw.get("model_type")))]
    name = names[0][0] if isinstance(names[0], (list, tuple)) else names[0]
    kind = getattr(transformers, str(name), None)
    first = getattr(kind, "main_input_name", "input_ids")
    reads = _OTHER_INPUTS.get(first) if isinstance(first, str) else None
    reads = reads or next((what for part, what in _OTHER_PARTS.items() if raw.get(part)), None)
    if reads:
        raise ExportError(
            f"{folder} is a model that reads {reads} ({name or raw.get('model_type')}); "
            "untorch does text: give it a checkpoint that reads text alone"
        )


def refuse_foreign_ids(folder: Path, tokenizer: Any, model: Any) -> None:
    """Raise ExportError for a tokenizer with ids for which the model has no embedding."""
    table = model.get_input_embeddings()
    size = getattr(table, "num_embeddings", None)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if size is not None and largest >= size:
        raise ExportError(
            f"the tokenizer of {folder} has ids up to {largest}, and the model embeddings for {size} ids only; "
            "they do not belong together, or resize_token_embeddings was not called after tokens were added"
        )
