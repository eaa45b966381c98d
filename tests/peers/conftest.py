"""Tokenizers of five families and small checkpoints, each read by transformers and by untorch."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import transformers
from tokenizers import processors

from helpers.tokenizers import TINY
from untorch import AutoTokenizer

_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
_GPT2 = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
# Family → which of the tiny tokenizers, the class that transformers reads it with, and what the config says.
FAMILIES = {
    "bert": ("wordpiece", "BertTokenizer", {"do_lower_case": True, "mask_token": "[MASK]"}),
    "gpt2": ("byte_bpe", "GPT2Tokenizer", {**_GPT2, "pad_token": "<pad>"}),
    "roberta": ("byte_bpe", "RobertaTokenizer", {"mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}),
    "albert": ("unigram", "AlbertTokenizer", {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}),
    "llama": ("byte_fallback", "LlamaTokenizer", {}),
}


@pytest.fixture(autouse=True)
def _quiet_transformers():
    logging.getLogger("transformers").setLevel(logging.CRITICAL)


def _write(folder: Path, family: str) -> None:
    kind, name, settings = FAMILIES[family]
    build, specials = TINY[kind]
    tokenizer = build()
    if family == "gpt2":
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    settings = {**specials, **settings}
    tokenizer.add_special_tokens([token for key, token in settings.items() if key.endswith("_token")])
    if family == "albert":
        ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    added = tokenizer.get_added_tokens_decoder()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": name,
        "model_max_length": 512,
        "added_tokens_decoder": {
            index: {flag: getattr(token, flag) for flag in _FLAGS} for index, token in added.items()
        },
        **settings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """`folder_of(family)`: the tokenizer of a family, as transformers itself saves it."""
    root = tmp_path_factory.mktemp("peers")

    def folder(family: str) -> Path:
        saved = root / family
        if not saved.exists():
            _write(root / f"{family}-made", family)
            transformers.AutoTokenizer.from_pretrained(root / f"{family}-made").save_pretrained(saved)
        return saved

    return folder


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def folder(family, folder_of) -> Path:
    return folder_of(family)


@pytest.fixture
def load(folder):
    """`load(**overrides)`: the family's tokenizer, fresh: transformers' and untorch's."""

    def both(**overrides):
        return (
            transformers.AutoTokenizer.from_pretrained(folder, **overrides),
            AutoTokenizer.from_pretrained(folder, **overrides),
        )

    return both


@pytest.fixture
def pair(load):
    """The family's tokenizer, fresh: transformers' and untorch's."""
    return load()
