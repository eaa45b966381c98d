"""Tiny random checkpoints of the four encoder families whose attention must fuse in every layer."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from checkpoints import WORDS, word_piece
from tokenizers import ByteLevelBPETokenizer

LAYERS = 2
_SIZES = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 64}
_DISTIL = {"dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 64}
FAMILIES = {
    "Bert": _SIZES,
    "DistilBert": _DISTIL,
    "Roberta": {**_SIZES, "max_position_embeddings": 162, "pad_token_id": 1, "type_vocab_size": 1},
    "Electra": {**_SIZES, "embedding_size": 16},
}


def byte_pairs(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """A RoBERTa tokenizer, saved as its slow files only: vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([WORDS], vocab_size=400, special_tokens=special, show_progress=False)
    trained.save_model(str(folder))
    return transformers.RobertaTokenizerFast.from_pretrained(folder, model_max_length=160)


def family(folder: Path, name: str, head: str = "ForSequenceClassification", **settings) -> Path:
    """A random two-layer checkpoint of a family with its tokenizer, saved into `folder`."""
    tokenizer = byte_pairs(folder) if name == "Roberta" else word_piece(folder)
    values = {"max_position_embeddings": 160, "initializer_range": 0.3, **FAMILIES.get(name, _SIZES), **settings}
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **values)
    torch.manual_seed(0)
    getattr(transformers, f"{name}{head}")(config).eval().save_pretrained(folder)
    return folder
