"""Ids, masks, offsets, words and decoded text are transformers', text by text."""

from __future__ import annotations

import csv
import json

import pytest

from helpers.tokenizers import HOSTILE, MAJOR, TINY, VARIANTS, assert_alike, assert_same, random_texts
from runtime.tokenizer.conftest import REAL
from untorch.errors import InputError

EVERYTHING = {
    "return_token_type_ids": True,
    "return_attention_mask": True,
    "return_special_tokens_mask": True,
    "return_offsets_mapping": True,
    "return_length": True,
}


@pytest.fixture(scope="session")
def real_texts(shared) -> list[str]:
    data = shared / "data"
    texts = [line.split("\t")[0] for line in (data / "sst2-dev.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    for line in (data / "stsb-dev.csv").read_text(encoding="utf-8").splitlines()[:500]:
        texts += line.split("\t")[5:7]
    with (data / "banking77-test.csv").open(encoding="utf-8") as file:
        texts += [row[0] for row in csv.reader(file)][1:301]
    articles = json.loads((data / "xquad-en.json").read_text(encoding="utf-8"))["data"]
    texts += [paragraph["context"] for article in articles for paragraph in article["paragraphs"]][:100]
    return texts


def check_texts(theirs, ours, texts, step=1):
    """Every text alone; every `step`-th in pairs and in windows; all of them decoded."""
    assert_same(theirs, ours, "__call__", texts, **EVERYTHING)
    rows = ours(texts)["input_ids"]
    for options in ({}, {"skip_special_tokens": True}, {"clean_up_tokenization_spaces": True}):
        assert_same(theirs, ours, "batch_decode", rows, **options)
    texts = texts[::step]
    assert_same(theirs, ours, "__call__", texts, texts[::-1], truncation=True, max_length=40, **EVERYTHING)
    assert_same(
        theirs, ours, "__call__", texts, truncation=True, max_length=16, stride=3,
        return_overflowing_tokens=True, padding=ours.pad_token is not None, **EVERYTHING,
    )  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_published_vocabularies(name, real_pair, real_texts):
    texts = real_texts + HOSTILE + random_texts(400)
    assert len(texts) >= 2000
    theirs, ours = real_pair(name)
    # The longest texts have their own test; thousands of windows of them would only repeat it.
    check_texts(theirs, ours, [text for text in texts if len(text) < 4000], step=3)


@pytest.mark.parametrize("name", REAL)
def test_very_long_texts(name, real_pair):
    theirs, ours = real_pair(name)
    for text in HOSTILE:
        if len(text) >= 4000:
            assert_same(theirs, ours, "__call__", text, **EVERYTHING)
            assert_same(theirs, ours, "__call__", text, truncation=True, return_overflowing_tokens=True)


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("variant", VARIANTS)
def test_tiny_tokenizers(kind, variant, tiny_pair):
    theirs, ours = tiny_pair(kind, variant)
    check_texts(theirs, ours, [text for text in HOSTILE if len(text) < 4000] + random_texts(40, seed=1))


@pytest.mark.parametrize("kind", TINY)
def test_one_text_at_a_time(kind, tiny_pair):
    theirs, ours = tiny_pair(kind)
    for text in [text for text in HOSTILE if len(text) < 1000]:
        assert_same(theirs, ours, "tokenize", text)
        assert_same(theirs, ours, "encode", text)
        assert_same(theirs, ours, "__call__", text, text)
        assert_same(theirs, ours, "__call__", text.split(), is_split_into_words=True)
        ids = ours.encode(text)
        assert_same(theirs, ours, "decode", ids)
        assert_same(theirs, ours, "convert_ids_to_tokens", ids)
        assert_same(theirs, ours, "convert_tokens_to_ids", ours.tokenize(text))
        assert_same(theirs, ours, "convert_tokens_to_string", ours.tokenize(text))


def test_tokenize_takes_a_list_of_two_as_one_run(real_pair):
    """As transformers 4. 5 takes any list for a batch, and gives the tokens of its first text alone."""
    theirs, ours = real_pair("bert-base-cased")
    two = ["I’ve been waiting for a HuggingFace course my whole life.", "I hate this so much!"]
    assert ours.tokenize(two)[:3] == ["I", "’", "ve"]
    assert ours.tokenize(two) == [token for text in two for token in theirs.tokenize(text)]
    if MAJOR < 5:
        assert_same(theirs, ours, "tokenize", two)
    for other in (two[:1], [*two, "three"]):
        if MAJOR < 5:
            assert not assert_alike(theirs, ours, "tokenize", other)
        with pytest.raises(InputError):
            ours.tokenize(other)
