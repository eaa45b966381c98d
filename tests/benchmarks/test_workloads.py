from __future__ import annotations

import numpy as np
import pytest
from benchmarks.workloads import LATENCY_TOKENS, WORDS, Generator


@pytest.fixture(scope="module")
def count():
    """A word-piece tokenizer that knows half of the words; the rest are several pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *WORDS[::2]]
    pieces = list(dict.fromkeys(pieces))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return lambda text: len(tokenizer.encode(text).ids)


@pytest.mark.parametrize("length", LATENCY_TOKENS)
def test_latency_texts_have_exactly_so_many_tokens_and_differ(count, length):
    made = Generator(count).latency(length)
    assert [count(text) for text in made.texts] == [length] * 50
    assert len(set(made.texts)) == 50


def test_long_texts_fill_512_tokens(count):
    made = Generator(count).long(8)
    assert [count(text) for text in made.texts] == [512] * 8


def test_sentences_are_as_long_as_they_say_and_as_real_ones_are(count):
    made = Generator(count).sentences()
    assert len(made.texts) == 4096
    assert [count(text) for text in made.texts[::97]] == made.tokens[::97]
    lengths = np.array(made.tokens)
    assert 23.5 < lengths.mean() < 26.5
    assert lengths.mean() > np.median(lengths) + 3
    assert lengths.min() >= 4
    assert 150 < lengths.max() <= 256


def test_the_same_seed_gives_the_same_texts_and_another_does_not(count):
    assert Generator(count).sentences(50) == Generator(count).sentences(50)
    assert Generator(count).mixed(50) == Generator(count).mixed(50)
    assert Generator(count, seed=1).sentences(50).texts != Generator(count).sentences(50).texts


def test_fewer_texts_are_the_first_of_more(count):
    generator = Generator(count)
    assert generator.sentences(100).texts == generator.sentences(200).texts[:100]


def test_a_tokenizer_that_cuts_every_word_is_refused():
    with pytest.raises(ValueError, match="single tokens"):
        Generator(lambda text: 2 + len(text))
