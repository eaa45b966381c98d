"""Marian's slow tokenizer as a fast one: the same ids for every text, the same text for ids."""

from __future__ import annotations

import json

import pytest
import sentencepiece
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from helpers import dropped
from helpers.comparing import TEXTS, same
from helpers.generators import _BART
from helpers.sentencepieces import CODES, marian
from untorch import AutoTokenizer, pipeline
from untorch.errors import SequenceTooLongError
from untorch_export.checkpoint.load import load
from untorch_export.checkpoint.marian import convert
from untorch_export.errors import ExportError
from untorch_export.export import export

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

# Letters that one language knows, that both do, that neither does; signs that normalizing changes or drops; marks.
ALPHABET = " abcdehilmostuv.!?>< äöüßéñ漢字ёРуΩ한①ﬁ½\t\n\u00a0\u2009\u200b\u3000▁\ufdd0\ufdd1\ufdd2🙂0123"
WORDS = ("hello", "world", "this movie", "<unk>", "</s>", "<pad>", "Film", "großartig", "漢字", "<s>")


def words(alphabet=ALPHABET):
    return st.lists(st.text(alphabet, max_size=6) | st.sampled_from(WORDS), max_size=8).map("".join)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return marian(tmp_path_factory.mktemp("marian"))


@pytest.fixture(scope="module")
def fast(slow):
    return convert(slow)


@settings(max_examples=500, deadline=None)
@given(words(), st.sampled_from(["", *CODES]), st.booleans())
@example("漢", "", False)
@example("a漢字b漢", "", False)
@example("\ufdd0漢\ufdd1", "", False)
def test_the_same_ids(slow, fast, text, code, spaced):
    text = code + " " * spaced + text
    assert fast(text).input_ids == slow(text).input_ids


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Mn", "Mc", "Me", "Cs")), max_size=12))
def test_the_same_ids_for_any_text_without_loose_marks(slow, fast, text):
    assert fast(text).input_ids == slow(text).input_ids


@settings(max_examples=500, deadline=None)
@given(st.data(), st.booleans())
def test_the_same_text(slow, fast, data, skip):
    ids = data.draw(st.lists(st.integers(0, len(slow) - 1), max_size=12))
    expected, got = (tokenizer.decode(ids, skip_special_tokens=skip) for tokenizer in (slow, fast))
    if not skip:  # two spaces behind a special token, where a piece that only the source language has follows
        expected, got = (" ".join(text.split()) for text in (expected, got))
    assert got == expected


def test_batches_pairs_and_cuts(slow, fast):
    for options in ({"padding": True}, {"truncation": True, "max_length": 5}, {"padding": "max_length"}):
        texts = [text for text in TEXTS if text]
        assert fast(texts, **options).data == slow(texts, **options).data
    assert fast("hello", "world").input_ids == slow("hello", "world").input_ids


def test_what_differs(tmp_path):
    slow = marian(tmp_path / "marian", without=("▁movie",))
    fast = convert(slow)
    # A piece of the source language that the model never learnt: unknown there, smaller pieces here.
    assert slow.tokenize("a movie") == ["▁a", "▁movie"]
    assert slow.unk_token_id in slow("a movie").input_ids
    assert slow.unk_token_id not in fast("a movie").input_ids
    # Of several marks on one letter, all but the first are dropped: `tokenizers` normalises by grapheme.
    assert slow("fe\u0301\u0323").input_ids != fast("fe\u0301\u0323").input_ids
    assert fast("fe\u0301\u0323").input_ids == fast("fé").input_ids
    # A language code counts at the start of a text there, everywhere here.
    assert slow.convert_tokens_to_ids(CODES[0]) not in slow(f"a {CODES[0]}").input_ids
    assert slow.convert_tokens_to_ids(CODES[0]) in fast(f"a {CODES[0]}").input_ids


def test_a_checkpoint_translates_as_with_transformers(tmp_path):
    source = tmp_path / "checkpoint"
    tokenizer = marian(source, model_max_length=128)
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=len(tokenizer), pad_token_id=pad, eos_token_id=eos, decoder_start_token_id=pad, **_BART
    )
    transformers.MarianMTModel(config).eval().save_pretrained(source)
    export(source, tmp_path / "bundle", task="translation", precisions=["fp32"])
    assert AutoTokenizer.from_pretrained(tmp_path / "bundle")("hello").input_ids == tokenizer("hello").input_ids
    ours = pipeline("translation", tmp_path / "bundle")
    theirs = dropped.writer("translation", source)
    texts = [">>deu<< hello world", "this movie is great!", "a", "漢字 и ё", "I love it. " * 5, ""]
    for options in ({"num_beams": 1}, {"num_beams": 3}):
        same(ours(texts, max_new_tokens=8, **options), theirs(texts, max_new_tokens=8, **options))
    with pytest.raises(SequenceTooLongError, match="128"):
        ours("good " * 200)
    cut = {"truncation": True, "max_new_tokens": 8}
    same(ours("good " * 200, **cut), theirs("good " * 200, **cut))
    (ids,) = ours(texts[:1], max_new_tokens=8, return_tensors=True)
    assert ids["translation_token_ids"].tolist() == (
        theirs(texts[:1], max_new_tokens=8, return_tensors=True)[0]["translation_token_ids"].tolist()
    )


@pytest.mark.parametrize("reason", ["separate_vocabs", "numbers from 0", "Unigram", "bytes", "user-defined", "samples"])
def test_what_has_no_fast_form_says_why(tmp_path, reason):
    marian(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((tmp_path / "source.spm").read_bytes())
    if reason == "separate_vocabs":
        (tmp_path / "target_vocab.json").write_bytes((tmp_path / "vocab.json").read_bytes())
        config["separate_vocabs"] = True
    elif reason == "numbers from 0":
        vocabulary = json.loads((tmp_path / "vocab.json").read_text())
        (tmp_path / "vocab.json").write_text(json.dumps({piece: 2 * index for piece, index in vocabulary.items()}))
    elif reason == "Unigram":
        model.trainer_spec.model_type = 2
    elif reason == "bytes":
        model.trainer_spec.byte_fallback = True
        for byte in range(256):
            model.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=6)
    elif reason == "user-defined":
        model.pieces[-1].type = 4
    else:
        config["sp_model_kwargs"] = {"enable_sampling": True, "nbest_size": -1, "alpha": 0.1}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "source.spm").write_bytes(model.SerializeToString())
    sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())  # it can still be loaded
    transformers.MarianConfig(vocab_size=400, pad_token_id=1, **_BART).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=reason):
        load(tmp_path, task="translation", random_init=True)
