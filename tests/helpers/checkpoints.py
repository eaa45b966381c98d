"""Small random checkpoints, made on the spot with transformers' own classes: the reference for every comparison."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WORDS = (
    "hello world this movie is great and that film was awful I love hate the a an it do not "
    "have been waiting for course my whole life so much cool nice good bad people city lives in"
)


def word_piece(folder: Path, **settings) -> transformers.PreTrainedTokenizerFast:
    """A BERT tokenizer with a vocabulary of a few hundred pieces, trained on a few words; saved into `folder`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
    tokenizer.train_from_iterator(
        [WORDS.lower(), " ".join(alphabet), " ".join(f"x{char}" for char in alphabet)], trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
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
