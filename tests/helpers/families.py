"""Tiny random checkpoints of the encoder families, with tokenizers written down rather than trained.

The trainers of `tokenizers` break ties by the order of a hash map, so that every run would get other ids.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from tokenizers import pre_tokenizers

from helpers.checkpoints import WORDS

LAYERS = 2
_SIZES = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 64}
_DISTIL = {"dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 64}
# The four whose attention must fuse in every layer.
FAMILIES = {
    "Bert": _SIZES,
    "DistilBert": _DISTIL,
    "Roberta": {**_SIZES, "max_position_embeddings": 162, "pad_token_id": 1, "type_vocab_size": 1},
    "Electra": {**_SIZES, "embedding_size": 16},
}


def word_pieces(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """A BERT tokenizer of some words and all their letters, saved into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = dict.fromkeys(WORDS.lower().split())
    pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *words])
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=160)
    tokenizer.save_pretrained(folder)
    return tokenizer


def byte_pairs(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """A RoBERTa tokenizer, saved as its slow files only: vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    merges = {}
    for word in dict.fromkeys(WORDS.split()):
        left = "Ġ"
        for letter in word:
            merges[f"{left} {letter}"] = None
            left += letter
            pieces[left] = None
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return transformers.RobertaTokenizerFast.from_pretrained(folder, model_max_length=160)


def family(folder: Path, name: str, head: str = "ForSequenceClassification", *, seed: int = 0, **settings) -> Path:
    """A random checkpoint of a family, of two layers, with its tokenizer, saved into `folder`."""
    tokenizer = byte_pairs(folder) if name == "Roberta" else word_pieces(folder)
    values = {"max_position_embeddings": 160, "initializer_range": 0.3, **FAMILIES.get(name, _SIZES), **settings}
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **values)
    torch.manual_seed(seed)
    getattr(transformers, f"{name}{head}")(config).eval().save_pretrained(folder)
    return folder
