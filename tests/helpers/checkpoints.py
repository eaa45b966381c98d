"""Small random checkpoints, made on the spot with transformers' own classes: the reference for every comparison."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer

from helpers.paths import DATA

WORDS = (
    "hello world this movie is great and that film was awful I love hate the a an it do not "
    "have been waiting for course my whole life so much cool nice good bad people city lives in"
)


def word_piece(folder: Path, **settings) -> transformers.PreTrainedTokenizerFast:
    """A BERT tokenizer with a vocabulary of some hundred pieces of WORDS; saved into `folder`.

    The vocabulary was trained once and is kept in tests/data: the trainer breaks ties by the order of a hash map, so
    that each process would get other ids, and from the same random weights other answers.
    """
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizers" / "bert.json"))
    fast = transformers.BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **settings)
    fast.save_pretrained(folder)
    return fast


def small_bert(folder: Path, head: str = "BertForSequenceClassification", **config) -> Path:
    """A random BERT of 2 layers and 32 dimensions with its tokenizer, saved into `folder`."""
    tokenizer = word_piece(folder)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        # Wide weights, so that random answers differ from text to text.
        "initializer_range": 0.5,
        "id2label": {0: "NEGATIVE", 1: "POSITIVE"},
        "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
    }
    torch.manual_seed(0)
    model = getattr(transformers, head)(transformers.BertConfig(**{**settings, **config}))
    model.eval().save_pretrained(folder)
    return folder
