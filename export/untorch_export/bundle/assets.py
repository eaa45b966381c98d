"""The bundle's small files: config, tokenizer, and what sentence-transformers keeps beside the model.

They are written so that the runtime needs no transformers to fill in a default.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from untorch.bundle.config import LIMIT
from untorch.bundle.folder import read_json
from untorch_export.checkpoint import sentences
from untorch_export.checkpoint.load import Checkpoint, modules_of
from untorch_export.errors import ExportError

# The pooling that the runtime can do after the transformer, by the last part of the module's type.
_MODULES = ("Transformer", "Pooling", "Normalize")
_SENTENCE_FILES = ("modules.json", sentences.CONFIG, sentences.TRANSFORMER)

# Where a tokenizer was loaded from is the exporting machine's business.
_PLACES = ("name_or_path", "tokenizer_file", "vocab_file", "merges_file")


def write(checkpoint: Checkpoint, bundle: Path) -> None:
    """Write a checkpoint's config, tokenizer and pooling files into a bundle folder.

    Raises ExportError as `check` does.
    """
    write_json(bundle / "config.json", checkpoint.config)
    if checkpoint.task.answer.generates:
        # As transformers has it in mind: an old checkpoint keeps some of it in config.json.
        write_json(bundle / "generation_config.json", _generation_config(checkpoint))
    _write_tokenizer(checkpoint, bundle)
    if checkpoint.task.name == "sentence-embeddings":
        _copy_pooling(checkpoint, bundle)
    if checkpoint.task.name == "text-ranking" and (checkpoint.root / sentences.CONFIG).is_file():
        shutil.copyfile(checkpoint.root / sentences.CONFIG, bundle / sentences.CONFIG)


def _generation_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.model.generation_config
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    values.pop("_from_model_config", None)
    return values


def write_json(path: Path, value: Any) -> None:
    """Write JSON the same way everywhere: indented, keys in the order given, UTF-8, one newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def _write_tokenizer(checkpoint: Checkpoint, bundle: Path) -> None:
    """Save the tokenizer as transformers runs it, which the files of an old checkpoint do not always say."""
    if checkpoint.tokenizer is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.tokenizer.save_pretrained(folder)
        saved = Path(folder)
        tokenizer = read_json(saved / "tokenizer.json")
        # Truncation and padding belong to a call; some checkpoints ship those of their last one.
        tokenizer["truncation"] = tokenizer["padding"] = None
        (bundle / "tokenizer.json").write_text(
            json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8", newline="\n"
        )
        config = read_json(saved / "tokenizer_config.json")
        if LIMIT in checkpoint.config:
            config["model_max_length"] = min(
                config.get("model_max_length") or checkpoint.config[LIMIT], checkpoint.config[LIMIT]
            )
        config["model_input_names"] = list(checkpoint.tokenizer.model_input_names)
        write_json(
            bundle / "tokenizer_config.json", {key: value for key, value in config.items() if key not in _PLACES}
        )
        if (saved / "special_tokens_map.json").is_file():
            write_json(bundle / "special_tokens_map.json", read_json(saved / "special_tokens_map.json"))
        for template in sorted(saved.rglob("*.jinja")):
            (bundle / template.relative_to(saved)).parent.mkdir(exist_ok=True)
            shutil.copyfile(template, bundle / template.relative_to(saved))


def check(checkpoint: Checkpoint) -> None:
    """Raise ExportError for a sentence-transformers module or setting that the runtime cannot do."""
    if checkpoint.task.name == "sentence-embeddings":
        _pooling_files(checkpoint)


def _copy_pooling(checkpoint: Checkpoint, bundle: Path) -> None:
    """Copy a sentence-transformers checkpoint's pooling: `modules.json` and the config of every module it names."""
    for name in (*_SENTENCE_FILES, *_pooling_files(checkpoint)):
        # A transformer in a subfolder keeps sentence_bert_config.json there.
        file = next((at / name for at in (checkpoint.root, checkpoint.folder) if (at / name).is_file()), None)
        if file is not None:
            (bundle / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, bundle / name)


def _pooling_files(checkpoint: Checkpoint) -> list[str]:
    """The configs of the modules after the transformer, all of which the runtime can do."""
    modules = checkpoint.root / "modules.json"
    if not modules.is_file():
        raise ExportError(
            f"{checkpoint.root} has no modules.json, so its pooling is not known; export it as feature-extraction, or "
            "add sentence-transformers' modules.json and 1_Pooling/config.json"
        )
    names, poolings = [], []
    for module in modules_of(checkpoint.root):
        kind = str(module["type"]).rpartition(".")[2]
        if kind not in _MODULES:
            raise ExportError(
                f"{modules} has a {kind} module; the runtime can do {', '.join(_MODULES)}; "
                "export it as feature-extraction"
            )
        if module["path"] and kind != "Transformer":
            names.append(f"{module['path']}/config.json")
        if kind == "Pooling":
            poolings.append(checkpoint.root / module["path"] / "config.json")
    sentences.check(checkpoint.root, checkpoint.folder, poolings, checkpoint.tokenizer)
    return names
