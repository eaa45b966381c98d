"""A Marian tokenizer as its checkpoints have it: two SentencePiece models trained on the spot, and one `vocab.json`."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import sentencepiece
import transformers

from helpers.checkpoints import WORDS

_ENGLISH = f"{WORDS} cafés naïve façade 10 20 2024 it's <s>".split()
_GERMAN = "hallo Welt dieser Film war großartig und ich liebe das nicht Stadt öäüß Русский ё 漢字 2024".split()  # noqa: SIM905
CODES = (">>deu<<", ">>fra<<")


def marian(folder: Path, *, without: tuple[str, ...] = (), **settings) -> transformers.MarianTokenizer:
    """The tokenizer, saved into `folder`. `without` are source pieces that `vocab.json` lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    source, target = _train(folder / "source.spm", _ENGLISH), _train(folder / "target.spm", _GERMAN)
    pieces = dict.fromkeys(["</s>", "<unk>", *source, *CODES, *target, "<pad>"])
    known = [piece for piece in pieces if piece not in without]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(known)}))
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "eng", "target_lang": "deu", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers.MarianTokenizer.from_pretrained(folder)


def _train(path: Path, words: list[str]) -> list[str]:
    """Train a model on random sentences of the words, and give its pieces."""
    chance = random.Random(0)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(chance.choices(words, k=8)) + chance.choice(".!?,") for _ in range(400)]),
        model_writer=model,
        vocab_size=200,
        hard_vocab_limit=False,
        character_coverage=1.0,
        bos_id=-1,
        eos_id=0,
        unk_id=1,
        pad_id=-1,
        num_threads=1,
        minloglevel=5,
    )
    path.write_bytes(model.getvalue())
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [trained.id_to_piece(index) for index in range(len(trained))]
