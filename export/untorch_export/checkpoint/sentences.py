"""The settings of a sentence-transformers folder: those that untorch does as well, and refusals of the others.

That library reads its settings from four files. A key that the runtime does not know would change the answer without
a word, so that one with another value than the library's default is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch.bundle.folder import read_json
from untorch_export.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"

_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_SAME: tuple[Any, ...] = (None, {}, [], False, "")
# Keys of each file that untorch reads, or that change no vector.
_READ = {
    CONFIG: {
        *("__version__", "model_type", "similarity_fn_name"),
        *("prompts", "default_prompt_name", "truncate_dim", "activation_fn"),
    },
    TRANSFORMER: {"max_seq_length", "unpad_inputs"},
    "pooling": {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt"},
}
# Keys that untorch does not read → the value with which they ask for nothing.
_ASK_FOR_NOTHING = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": _TEXT,
}
_PROBES = ("MUNICH is in Germany", "Élan VITAL, ΣΊΣΥΦΟΣ and ИВАН")


def check(root: Path, folder: Path, poolings: Sequence[Path], tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Raise ExportError, naming it, for a setting that the runtime would pass over.

    `root` is the checkpoint's folder and `folder` the transformer's in it; `poolings` are the configs of its
    pooling modules.
    """
    for name, places in ((CONFIG, (root,)), (TRANSFORMER, (root, folder))):
        for path in dict.fromkeys(place / name for place in places):
            if path.is_file():
                _check(path, _READ[name], tokenizer)
    for path in poolings:
        if path.is_file():
            modes = {key for key in read_json(path) if key.startswith("pooling_mode_")}
            _check(path, _READ["pooling"] | modes, tokenizer)


def _check(path: Path, known: set[str], tokenizer: PreTrainedTokenizerBase | None) -> None:
    for key, value in read_json(path).items():
        if key in known or value in _SAME or value == _ASK_FOR_NOTHING.get(key):
            continue
        if key == "do_lower_case" and tokenizer is not None and _lowers(tokenizer):
            continue
        raise ExportError(
            f"{path} sets {key} to {value!r}, which untorch does not do, so its vectors would be others; "
            "export it as feature-extraction, or without that setting"
        )


def _lowers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer reads capitals as small letters anyway."""
    return all(tokenizer(text)["input_ids"] == tokenizer(text.lower())["input_ids"] for text in _PROBES)
