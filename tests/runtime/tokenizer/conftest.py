"""Saved tokenizers, read by transformers and by untorch."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

from helpers.tokenizers import MAJOR, TINY, edit_json, save_variant
from untorch.tokenizer import AutoTokenizer

REAL = ("distilbert-sst2", "bert-base-cased", "roberta-base", "gpt2", "albert")


@pytest.fixture(autouse=True)
def _quiet_transformers():
    logging.getLogger("transformers").setLevel(logging.CRITICAL)


def read_both(folder: Path, **overrides):
    import transformers

    return (
        transformers.AutoTokenizer.from_pretrained(folder, **overrides),
        AutoTokenizer.from_pretrained(folder, **overrides),
    )


def read_folder_of_4(folder: Path):
    """transformers' tokenizer of a folder as 4 writes them, and untorch's of what an export makes of it.

    Under transformers 4 the folder itself is read. 5 reads it by rules of its own, so there it is what 5 saves.
    """
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if MAJOR >= 5:
        folder = folder.with_name("saved by 5")
        theirs.save_pretrained(folder)
    return theirs, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """`tiny_folder(kind, variant)`: a tiny tokenizer saved by transformers, then changed."""
    import transformers

    root = tmp_path_factory.mktemp("tiny")
    fresh = itertools.count()

    def folder(kind: str, variant: str = "plain") -> Path:
        plain = root / kind
        if not plain.exists():
            build, specials = TINY[kind]
            tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=build(), model_max_length=24, **specials)
            tokenizer.add_tokens(["<new>", "two words"])
            tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
            tokenizer.save_pretrained(plain)
            # The generic class has token types in transformers 4, and none in 5.
            names = ["input_ids", "token_type_ids", "attention_mask"]
            edit_json(plain / "tokenizer_config.json", model_input_names=names)
        return save_variant(plain, root / f"{kind}-{variant}-{next(fresh)}", variant)

    return folder


@pytest.fixture(scope="session")
def tiny_pair(tiny_folder):
    """`tiny_pair(kind, variant)`: a tiny tokenizer as transformers reads it, and as untorch does."""
    made: dict[tuple[str, str], tuple] = {}

    def pair(kind: str, variant: str = "plain"):
        if (kind, variant) not in made:
            made[kind, variant] = read_both(tiny_folder(kind, variant))
        return made[kind, variant]

    return pair


@pytest.fixture(scope="session")
def real_folder(shared, tmp_path_factory):
    """`real_folder(name)`: a published vocabulary as a fast tokenizer's folder."""
    import transformers

    root = tmp_path_factory.mktemp("real")

    def folder(name: str) -> Path:
        if name == "distilbert-sst2":
            return shared / "checkpoints" / "distilbert-sst2-config"
        if not (root / name).exists():
            transformers.AutoTokenizer.from_pretrained(shared / "tokenizers" / name).save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def real_pair(real_folder):
    """`real_pair(name)`: a published vocabulary as transformers reads it, and as untorch does."""
    made: dict[str, tuple] = {}

    def pair(name: str):
        if name not in made:
            made[name] = read_both(real_folder(name))
        return made[name]

    return pair
