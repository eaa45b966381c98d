"""BatchEncoding, the fast path to arrays, decoding id by id, errors, and many threads at once."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from helpers.tokenizers import HOSTILE, MAJOR, TINY, random_texts
from runtime.tokenizer.conftest import REAL
from untorch.errors import InputError
from untorch.tokenizer import AutoTokenizer, BatchEncoding

TEXT = "The quick naïve fox, don't jump!"


class TestBatchEncoding:
    def test_is_a_mapping(self, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        encoded = ours([TEXT, "a"])
        assert isinstance(encoded, Mapping)
        assert list(encoded) == list(encoded.keys()) == ["input_ids", "token_type_ids", "attention_mask"]
        assert dict(**encoded) == encoded.data
        assert encoded.input_ids is encoded["input_ids"]
        assert encoded[0].ids == encoded["input_ids"][0]
        assert [row.ids for row in encoded[0:2]] == encoded["input_ids"]
        with pytest.raises(AttributeError, match="labels"):
            _ = encoded.labels
        again = pickle.loads(pickle.dumps(encoded))
        assert (again.data, again.tokens(1)) == (encoded.data, encoded.tokens(1))

    def test_without_encodings(self):
        bare = BatchEncoding({"input_ids": [[1, 2], [3, 4]]})
        assert (bare.is_fast, bare.encodings, bare[0:1]) == (False, None, {"input_ids": [[1, 2]]})
        with pytest.raises(KeyError):
            bare[0]
        with pytest.raises(InputError, match="without a tokenizer"):
            bare.tokens()

    @pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "unigram"])
    def test_relates_tokens_words_and_characters(self, kind, tiny_pair):
        theirs, ours = (tokenizer([TEXT, "a b"], ["two words here", "c"]) for tokenizer in tiny_pair(kind))
        assert ours.n_sequences == theirs.n_sequences == 2
        for row in (0, 1):
            assert ours.tokens(row) == theirs.tokens(row)
            assert ours.word_ids(row) == theirs.word_ids(row)
            assert ours.sequence_ids(row) == theirs.sequence_ids(row)
            for token in range(len(ours.tokens(row))):
                for name in ("token_to_chars", "token_to_word", "token_to_sequence"):
                    assert getattr(ours, name)(row, token) == getattr(theirs, name)(row, token)
                    if row == 0:
                        assert getattr(ours, name)(token) == getattr(theirs, name)(token)
            for sequence in (0, 1):
                for char in range(len(TEXT if sequence == 0 else "two words here")):
                    for name in ("char_to_token", "char_to_word"):
                        arguments = (row, char, sequence)
                        assert getattr(ours, name)(*arguments) == getattr(theirs, name)(*arguments)
                for word in {word for word in ours.word_ids(row) if word is not None}:
                    assert ours.word_to_tokens(row, word, sequence) == theirs.word_to_tokens(row, word, sequence)
                    if theirs.word_to_tokens(row, word, sequence) is not None:
                        assert ours.word_to_chars(row, word, sequence) == theirs.word_to_chars(row, word, sequence)
        last = len(ours.tokens(0)) - 1
        assert ours.token_to_word(0, last - 1) == ours.token_to_word(0, -2)

    def test_arrays(self, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        encoded = ours([TEXT, "a"], padding=True, return_tensors="np", return_offsets_mapping=True, return_length=True)
        assert all(type(value) is np.ndarray and value.dtype == np.int64 for value in encoded.values())
        count = len(encoded.tokens(0))
        assert {name: value.shape for name, value in encoded.items()} == {
            "input_ids": (2, count),
            "token_type_ids": (2, count),
            "attention_mask": (2, count),
            "offset_mapping": (2, count, 2),
            "length": (2,),
        }
        assert ours(TEXT, return_tensors="np")["input_ids"].shape == (1, count)
        later = ours(TEXT).convert_to_tensors("np", prepend_batch_axis=True)
        assert later["input_ids"].shape == (1, count)

    @pytest.mark.parametrize("framework", ["pt", "tf", "jax"])
    def test_other_frameworks_are_refused(self, framework, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        for call in (ours, ours.encode):
            with pytest.raises(InputError, match='"np"'):
                call(TEXT, return_tensors=framework)
        with pytest.raises(InputError, match='"np"'):
            ours.pad(ours([TEXT]), return_tensors=framework)

    def test_ragged_rows_make_no_array(self, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        with pytest.raises(InputError, match="padding=True"):
            ours([TEXT, "a"], return_tensors="np")

    def test_nothing_in_nothing_out(self, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        for padding in (False, True, "max_length"):
            assert ours([], padding=padding).data == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
        assert ours([], return_tensors="np")["input_ids"].dtype == np.int64


class TestFastPath:
    @pytest.mark.parametrize("kind", TINY)
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_equals_the_call(self, kind, side, tiny_folder):
        ours = AutoTokenizer.from_pretrained(tiny_folder(kind), padding_side=side)
        if ours.pad_token is None:
            ours.pad_token = "</s>"
        texts = [text for text in HOSTILE if len(text) < 200] + random_texts(30, seed=2)
        names = ["input_ids", "attention_mask", "token_type_ids"]
        for pairs in (None, texts[::-1]):
            for keywords in ({}, {"truncation": True}, {"truncation": True, "max_length": 7}):
                for special in (True, False):
                    keywords["add_special_tokens"] = special
                    expected = ours(
                        texts, pairs, padding=True, return_tensors="np", return_token_type_ids=True, **keywords
                    )
                    arrays = ours.collate(ours.encode_ids(texts, pairs, **keywords), names)
                    assert {name: array.tolist() for name, array in arrays.items()} == {
                        name: expected[name].tolist() for name in names
                    }

    @pytest.mark.parametrize(
        "processor", [processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), processors.ByteLevel(), None], ids=repr
    )
    @pytest.mark.parametrize("special", [True, False])
    def test_types_of_pairs(self, processor, special, tiny_folder):
        folder = tiny_folder("wordpiece")
        state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        state["post_processor"] = processor and json.loads(processor.__getstate__())
        (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
        ours = AutoTokenizer.from_pretrained(folder)
        encodings = ours.encode_ids(["a fox"], ["two dogs"], add_special_tokens=special)
        called = ours(["a fox"], ["two dogs"], add_special_tokens=special)
        assert ours.collate(encodings, {"token_type_ids"})["token_type_ids"].tolist() == called["token_type_ids"]
        assert 1 in called["token_type_ids"][0]

    def test_only_what_is_asked_for(self, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        encodings = ours.encode_ids([TEXT, "a"])
        arrays = ours.collate(encodings, {"attention_mask", "position_ids"}, pad_to=64, dtype=np.int32)
        assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
            "attention_mask": ((2, 64), np.int32)
        }
        assert arrays["attention_mask"].sum(1).tolist() == [len(encoding) for encoding in encodings]
        assert ours.collate([], {"input_ids"})["input_ids"].shape == (0, 0)

    def test_no_pad_token(self, tiny_pair):
        _, ours = tiny_pair("byte_fallback")
        assert ours.collate(ours.encode_ids([TEXT]), {"input_ids"})["input_ids"].shape[0] == 1
        with pytest.raises(InputError, match="pad token"):
            ours.collate(ours.encode_ids([TEXT, "a"]), {"input_ids"})

    def test_refuses_what_is_not_a_list_of_texts(self, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        with pytest.raises(InputError, match=r"pass \[text\]"):
            ours.encode_ids(TEXT)
        with pytest.raises(InputError, match="2 texts and 1 text_pairs"):
            ours.encode_ids(["a", "b"], ["c"])
        with pytest.raises(InputError, match="text 1 is int"):
            ours.encode_ids(["a", 3])


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (None, "None"),
            (3, "text is int"),
            (np.array(["a"]), "ndarray"),
            ({"text": "a"}, "dict"),
            (b"bytes", "bytes"),
            ([None], "NoneType"),
            (["a", None], "text 1 is NoneType"),
            (["a", 3.5], "text 1 is float"),
            ("x\ud800y", r"U\+D800, at character 1"),
            (["fine", "\udfff"], r"text 1 has a lone surrogate, U\+DFFF, at character 0"),
            ([("a", "b\ud83d")], "the second of the text has a lone surrogate"),
            ([["a", "b", "c"]], "list of 3"),
            ([("a", 3)], "the second of the text is int"),
        ],
    )
    def test_not_text(self, text, says, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        with pytest.raises(InputError, match=says):
            ours(text)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ("one string", "list of words"),
            (["a", None], "word 1 of the text is NoneType"),
            ([["a"], ["b", "\ud800"]], r"word 1 of text 1 has a lone surrogate"),
        ],
    )
    def test_not_words(self, words, says, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        with pytest.raises(InputError, match=says):
            ours(words, is_split_into_words=True)

    @pytest.mark.parametrize(
        ("keywords", "says"),
        [
            ({"padding": "widest"}, "padding='widest' is not one of"),
            ({"truncation": "last"}, "truncation='last' is not one of"),
            ({"padding": True, "padding_side": "top"}, "padding_side"),
            ({"truncation": True, "max_length": 6, "stride": 5}, "stride"),
            ({"truncation": True, "max_length": -1}, "max_length is -1"),
            ({"truncation": True, "max_length": 9, "padding": True, "pad_to_multiple_of": 8}, "multiple"),
            ({"truncation": "only_second", "max_length": 4}, "only_second"),
        ],
    )
    def test_impossible_requests(self, keywords, says, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        with pytest.raises(InputError, match=says):
            ours(TEXT, **keywords)

    def test_batches_that_do_not_match(self, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        with pytest.raises(InputError, match="each text needs its own"):
            ours(["a", "b"], ["c"])
        with pytest.raises(InputError, match="each text needs its own"):
            ours(["a", "b"], "c")
        with pytest.raises(InputError, match="needs input_ids"):
            ours.pad({"attention_mask": [[1]]})
        with pytest.raises(InputError, match="attention_mask has 1 rows, input_ids 2"):
            ours.pad({"input_ids": [[1], [2]], "attention_mask": [[1]]})

    @pytest.mark.skipif(MAJOR >= 5, reason="a folder that transformers 5 saved takes words as they are")
    def test_words_need_a_prefix_space(self, real_folder):
        with pytest.raises(InputError, match="add_prefix_space=True"):
            AutoTokenizer.from_pretrained(real_folder("roberta-base"))(["a", "b"], is_split_into_words=True)
        spaced = AutoTokenizer.from_pretrained(real_folder("roberta-base"), add_prefix_space=True)
        assert spaced(["a", "b"], is_split_into_words=True)["input_ids"] == [0, 10, 741, 2]

    @pytest.mark.parametrize("ids", [[1, 10**6], [-1], [2**40], 10**6, np.array([10**6])])
    def test_ids_outside_the_vocabulary(self, ids, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        with pytest.raises(InputError, match="not in the vocabulary"):
            ours.decode(ids)
        with pytest.raises(InputError, match="not in the vocabulary"):
            ours.convert_ids_to_tokens(ids)

    def test_ids_that_are_none(self, tiny_pair):
        _, ours = tiny_pair("wordpiece")
        with pytest.raises(InputError, match="batch_decode"):
            ours.decode([[1, 2]])
        with pytest.raises(InputError, match="not str"):
            ours.decode(["a"])
        with pytest.raises(InputError, match="a token is a str"):
            ours.convert_tokens_to_ids([None])
        with pytest.raises(InputError, match="lone surrogate"):
            ours.convert_tokens_to_ids("\ud800")

    def test_warnings_come_once(self, tiny_folder, caplog):
        ours = AutoTokenizer.from_pretrained(tiny_folder("wordpiece", "unlimited"))
        for _ in range(2):
            assert len(ours(TEXT, truncation=True)["input_ids"]) == len(ours(TEXT)["input_ids"])
            assert len(ours(TEXT, padding="max_length")["input_ids"]) == len(ours(TEXT)["input_ids"])
            assert len(ours(TEXT, max_length=5)["input_ids"]) == 5
        messages = [record.message for record in caplog.records if record.name == "untorch.tokenizer"]
        assert [message.split(" ")[0] for message in messages] == ["truncation", 'padding="max_length"', "max_length"]

    def test_a_sequence_over_the_limit_is_told_of(self, tiny_folder, caplog):
        ours = AutoTokenizer.from_pretrained(tiny_folder("wordpiece"))
        ours("dog " * 40)
        assert "42 tokens is longer than the model's maximum of 24" in caplog.text


class TestDecodeStream:
    @staticmethod
    def stream(ours, ids, skip):
        stream = ours.decode_stream(skip_special_tokens=skip)
        pieces = [piece for index in ids if (piece := stream.step(index)) is not None]
        assert all(pieces)
        assert not any(piece.endswith("\ufffd") for piece in pieces)
        return "".join(pieces) + (stream.flush() or "")

    def check(self, ours, ids):
        for skip in (True, False):
            whole = ours.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert self.stream(ours, ids, skip) == whole

    @pytest.mark.parametrize("kind", TINY)
    def test_texts(self, kind, tiny_pair):
        _, ours = tiny_pair(kind)
        for text in [text for text in HOSTILE if len(text) < 600] + random_texts(40, seed=3):
            self.check(ours, ours(text)["input_ids"])

    @pytest.mark.parametrize("name", REAL)
    def test_texts_in_published_vocabularies(self, name, real_pair):
        _, ours = real_pair(name)
        for text in [text for text in HOSTILE if len(text) < 600] + random_texts(40, seed=4):
            self.check(ours, ours(text)["input_ids"])

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(kind=st.sampled_from(sorted(TINY)), data=st.data())
    def test_any_ids(self, tiny_pair, kind, data):
        _, ours = tiny_pair(kind)
        self.check(ours, data.draw(st.lists(st.integers(0, len(ours) - 1), max_size=20)))

    def test_gives_text_as_soon_as_it_is_certain(self, real_pair):
        _, ours = real_pair("gpt2")
        stream = ours.decode_stream()
        ids = ours("Hi 👍 there")["input_ids"]
        pieces = [stream.step(index) for index in ids]
        assert pieces == ["Hi", *[None] * (len(ids) - 3), " 👍", " there"]
        with pytest.raises(InputError, match="not in the vocabulary"):
            stream.step(10**6)


def test_ids_may_be_of_numpy(tiny_pair):
    _, ours = tiny_pair("wordpiece")
    ids = np.array(ours(TEXT)["input_ids"])
    assert ours.decode(ids) == ours.decode(list(ids)) == ours.decode(ids.tolist())
    assert ours.decode(ids[0]) == ours.convert_ids_to_tokens(ids[0]) == "[CLS]"
    assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == ours.tokenize(TEXT)


def test_a_tokenizer_may_be_pickled(tiny_pair):
    _, ours = tiny_pair("wordpiece")
    again = pickle.loads(pickle.dumps(ours))
    assert again(TEXT, truncation=True, max_length=5).data == ours(TEXT, truncation=True, max_length=5).data
    assert again.special_tokens_map == ours.special_tokens_map


def test_one_tokenizer_in_many_threads(tiny_folder):
    ours = AutoTokenizer.from_pretrained(tiny_folder("wordpiece"))
    texts = [text for text in HOSTILE if len(text) < 400] + random_texts(20, seed=5)
    calls = [
        {"truncation": True, "max_length": length, "padding": padding, "stride": stride, "padding_side": side}
        for length in range(4, 24, 2)
        for padding in (False, True, "max_length")
        for stride, side in ((0, "left"), (1, "right"))
    ]
    expected = [ours(texts, **call).data for call in calls]
    wrong: list[dict] = []

    def work(offset: int) -> None:
        for step in range(len(calls)):
            index = (step * 7 + offset) % len(calls)
            if ours(texts, **calls[index]).data != expected[index]:
                wrong.append(calls[index])

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
