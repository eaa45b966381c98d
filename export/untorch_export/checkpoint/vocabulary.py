"""A checkpoint's tokenizer, in the fast form that the runtime reads.

Which files a tokenizer is made of is its class's to say (`vocab_files_names`), so every class of transformers' is
found, whatever its vocabulary is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch.bundle.folder import read_json
from untorch.errors import first_line
from untorch_export.checkpoint import marian
from untorch_export.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What any class writes beside its vocabulary. Settings alone are no tokenizer.
_FAST = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"

# A converted tokenizer is compared with the slow one on these before it is trusted.
_PROBES = (
    "The soup was warm, the bread was fresh, and nobody hurried us out.",
    "GREAT Product — would buy again!! 10/10",
    "naïve café, Straße, Ελλάδα, привет",
    "这家餐厅的面条很好吃。 この映画は長すぎる",
    "",
    " two  spaces\tand a tab ",
)


def files_of(folder: Path, raw: dict[str, Any]) -> set[str]:
    """The names under which a checkpoint's tokenizer may keep its vocabulary, by the classes it may be of."""
    names = {_FAST, "tokenizer.model"}
    for kind in _classes(folder, raw):
        names.update(str(name) for name in (getattr(kind, "vocab_files_names", None) or {}).values())
    return names


def _classes(folder: Path, raw: dict[str, Any]) -> list[type]:
    """The tokenizer classes of a checkpoint: what its files name, and those of its type of model."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    path = folder / _SETTINGS
    given = str((read_json(path) if path.is_file() else raw).get("tokenizer_class") or "")
    pair = TOKENIZER_MAPPING_NAMES.get(str(raw.get("model_type"))) or ()
    named = [pair] if isinstance(pair, str) else list(pair)
    named += [given, given.removesuffix("Fast"), f"{given.removesuffix('Fast')}Fast"]
    found = []
    for name in dict.fromkeys(filter(None, named)):
        try:
            kind = tokenizer_class_from_name(name)
        except ImportError:  # a class that needs a package of its own
            continue
        if kind is not None:
            found.append(kind)
    return found


def load(folder: Path, raw: dict[str, Any], trusted: bool) -> PreTrainedTokenizerBase | None:
    """The checkpoint's tokenizer in its fast form; None where the folder holds no file of a vocabulary.

    Raises ExportError for files that cannot be read as a tokenizer, and for one that has no fast form.
    """
    if not any((folder / name).is_file() for name in files_of(folder, raw)) and not (trusted and _own_code(folder)):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=trusted)
    except Exception as error:  # each tokenizer family raises its own kinds for a bad vocabulary
        raise ExportError(f"the tokenizer of {folder} cannot be loaded: {first_line(error)}") from error
    # transformers 5 reads a damaged SentencePiece file as a vocabulary without a piece.
    if not tokenizer.get_vocab().keys() - {"", *tokenizer.all_special_tokens}:
        raise ExportError(f"the tokenizer of {folder} cannot be loaded: its vocabulary has special tokens alone")
    if type(tokenizer).__name__ == "MarianTokenizer":
        return marian.convert(tokenizer)
    return tokenizer if tokenizer.is_fast else _fast(folder, tokenizer)


def own(folder: Path, fast: PreTrainedTokenizerBase | None, trusted: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that transformers itself loads, with the padding token that the `fast` one was given."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    if fast is not None and fast.pad_token is not None:
        tokenizer.pad_token = fast.pad_token
    return tokenizer


def _own_code(folder: Path) -> bool:
    path = folder / _SETTINGS
    return path.is_file() and "AutoTokenizer" in (read_json(path).get("auto_map") or {})


def _fast(folder: Path, slow: Any) -> PreTrainedTokenizerBase:
    """The fast form of a tokenizer whose class has none of its own, by transformers' converter for it."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS, convert_slow_tokenizer

    name = type(slow).__name__
    if name not in SLOW_TO_FAST_CONVERTERS:
        raise ExportError(
            f"the tokenizer of {folder} ({name}) has no fast form, and transformers no converter for it; "
            "the runtime reads fast tokenizers only"
        )
    try:
        backend = convert_slow_tokenizer(slow)
    except Exception as error:  # a converter stumbles over a vocabulary in its own way
        raise ExportError(
            f"the tokenizer of {folder} ({name}) cannot be made a fast one: {first_line(error)}"
        ) from error
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=slow.model_max_length,
        padding_side=slow.padding_side,
        truncation_side=slow.truncation_side,
        clean_up_tokenization_spaces=slow.clean_up_tokenization_spaces,
        model_input_names=slow.model_input_names,
        **slow.special_tokens_map,
    )
    for text in _PROBES:
        if fast(text)["input_ids"] != slow(text)["input_ids"]:
            raise ExportError(
                f"the tokenizer of {folder} ({name}) has no fast form that gives its ids: it reads {text!r} as "
                f"{slow.tokenize(text)[:8]}, the converted one as {fast.tokenize(text)[:8]}"
            )
    return fast
