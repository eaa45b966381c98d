"""What transformers 4.57's common tests of tokenizers claim, held for untorch against transformers itself.

A test has the name of the test in transformers' tests/test_tokenization_common.py whose claim it checks; README.md
lists them all.
"""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
import transformers
from tokenizers import AddedToken

from helpers.tokenizers import MAJOR, assert_alike, assert_same, attribute, facts
from untorch import AutoTokenizer
from untorch.errors import InputError
from untorch.tokenizer import Tokenizer
from untorch.tokenizer.loading import TOKEN_NAMES

of_4 = pytest.mark.skipif(MAJOR >= 5, reason="transformers 5 has dropped this method")

TEXT = "Munich and Berlin are nice cities, aren't they? naïve café 北京"
SECOND = "With these inputs."
TEXTS = ["the quick brown fox", "the quick brown fox jumps over the lazy dog", "dog"]
CHAT = [
    {"role": "system", "content": "system message"},
    {"role": "user", "content": "user message"},
    {"role": "assistant", "content": "assistant message"},
]
PLAIN_CHAT = "{% for message in messages %}{{message['role'] + message['content']}}{% endfor %}"
CLOSED_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim "
    "+ '<|im_end|>\n' }}{% endfor %}"
)
MARKED_CHAT = (
    "{% for message in messages %}{{ message['role'] + ': ' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
)


def ids_of(answer):
    return answer["input_ids"]


def added(tokenizer):
    """The added tokens with their flags."""
    return {index: repr(token) for index, token in tokenizer.added_tokens_decoder.items()}


def padded(pair):
    """Both tokenizers with a pad token."""
    for tokenizer in pair:
        if tokenizer.pad_token_id is None:
            tokenizer.add_special_tokens({"pad_token": "<PAD>"})
    return pair


# Vocabulary and special tokens


def test_tokenize_special_tokens(pair):
    for tokenizer in pair:
        tokenizer.add_tokens(["[SPECIAL_TOKEN_1]"], special_tokens=True)
        assert tokenizer.tokenize("[SPECIAL_TOKEN_1]") == ["[SPECIAL_TOKEN_1]"]
    assert_same(*pair, "tokenize", "some [SPECIAL_TOKEN_1]text[SPECIAL_TOKEN_1]")


def test_model_input_names_signature(pair):
    theirs, ours = pair
    assert list(ours.model_input_names) == list(theirs.model_input_names)
    assert ours.model_input_names[0] == "input_ids"


def test_rust_tokenizer_signature(pair):
    # Named in docs/differences.md: a tokenizer is read from a folder, not put together from parts.
    with pytest.raises(TypeError):
        Tokenizer(tokenizer_file="tokenizer.json")
    with pytest.raises(InputError, match="from_pretrained"):
        AutoTokenizer()


def test_tokenizer_fast_store_full_signature(folder, pair):
    theirs, ours = pair
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for name in config.keys() & set(theirs.init_kwargs) - {"added_tokens_decoder", "extra_special_tokens"}:
        assert str(ours.init_kwargs[name]) == str(theirs.init_kwargs[name]), name


def test_tokenizers_common_properties(pair):
    theirs, ours = pair
    for name in TOKEN_NAMES:
        assert getattr(ours, name) == getattr(theirs, name), name
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id"), name
    assert ours.additional_special_tokens == attribute(theirs, "additional_special_tokens")
    assert ours.additional_special_tokens_ids == attribute(theirs, "additional_special_tokens_ids")
    assert ours.model_max_length == theirs.model_max_length
    assert ours.init_inputs == ()
    assert ours.init_kwargs
    assert added(ours) == added(theirs)
    assert ours.added_tokens_encoder == theirs.added_tokens_encoder


def test_tokenizers_common_ids_setters(pair):
    for tokenizer in pair:
        index = 5
        token = tokenizer.convert_ids_to_tokens(index)
        for name in TOKEN_NAMES:
            setattr(tokenizer, f"{name}_id", None)
            assert getattr(tokenizer, name) is None
            assert getattr(tokenizer, f"{name}_id") is None
            setattr(tokenizer, f"{name}_id", index)
            assert getattr(tokenizer, name) == token
            assert getattr(tokenizer, f"{name}_id") == index
    ours = pair[1]
    ours.additional_special_tokens_ids = []
    assert ours.additional_special_tokens == []
    ours.additional_special_tokens_ids = [index]
    assert ours.additional_special_tokens == [token]
    assert ours.additional_special_tokens_ids == [index]


def test_tokenizers_special_tokens_properties_unset(pair):
    for tokenizer in pair:
        for name in TOKEN_NAMES:
            setattr(tokenizer, name, None)
            assert getattr(tokenizer, name) is None
    ours = pair[1]
    ours.additional_special_tokens = None
    assert ours.additional_special_tokens is None
    assert ours.special_tokens_map == ours._extra_special_tokens


def test_save_and_load_tokenizer(load, tmp_path):
    text = " He is very happy, UNwant\u00e9d,running bim bambam"
    theirs, ours = load(model_max_length=42)
    for name, tokenizer in (("theirs", theirs), ("ours", ours)):
        tokenizer.add_tokens(["bim", "bambam"])
        tokenizer.add_special_tokens({"additional_special_tokens": ["new_additional_special_token"]})
        before = tokenizer.encode(text, add_special_tokens=False)
        tokenizer.save_pretrained(tmp_path / name)
        for library in (transformers.AutoTokenizer, AutoTokenizer):
            after = library.from_pretrained(tmp_path / name)
            assert after.encode(text, add_special_tokens=False) == before
            assert after.get_vocab() == tokenizer.get_vocab()
            assert after.model_max_length == 42
            assert library.from_pretrained(tmp_path / name, model_max_length=43).model_max_length == 43
    assert ours.encode(text) == theirs.encode(text)
    assert "new_additional_special_token" in AutoTokenizer.from_pretrained(tmp_path / "ours").additional_special_tokens


def test_pickle_tokenizer(pair):
    ours = pair[1]
    assert pickle.loads(pickle.dumps(ours)).tokenize(TEXT) == ours.tokenize(TEXT)


def test_pickle_added_tokens(pair):
    token = AddedToken("<s>", rstrip=True, lstrip=True, normalized=False, single_word=True)
    for tokenizer in pair:
        tokenizer.add_tokens([AddedToken("<t>", rstrip=True, lstrip=True, normalized=False, single_word=True)])
    assert added(pickle.loads(pickle.dumps(pair[1]))) == added(pair[0])
    assert pickle.loads(pickle.dumps(token)).__getstate__() == token.__getstate__()


def test_added_tokens_do_lower_case(pair):
    theirs, ours = pair
    assert getattr(ours, "do_lower_case", None) == getattr(theirs, "do_lower_case", None)
    special = ours.all_special_tokens[0]
    for tokenizer in pair:
        new = ["aaaaa bbbbbb", "cccccccccdddddddd", "AAAAA BBBBBB", "CCCCCCCCCDDDDDDDD"]
        tokenizer.add_tokens([AddedToken(token, lstrip=True, rstrip=True) for token in new])
    for text in (
        f"{special} aaaaa bbbbbb low cccccccccdddddddd l {special}",
        f"{special} AAAAA BBBBBB low CCCCCCCCCDDDDDDDD l {special}",
        "A " + " yEs ".join(theirs.all_special_tokens) + " B",
    ):
        assert_same(*pair, "tokenize", text)


def test_add_tokens_tokenizer(pair):
    theirs, ours = pair
    size, whole = ours.vocab_size, len(ours)
    for tokenizer in pair:
        new = [AddedToken(token, rstrip=True, lstrip=True) for token in ("aaaaa bbbbbb", "cccccccccdddddddd")]
        assert tokenizer.add_tokens(new) == 2
    assert (ours.vocab_size, len(ours)) == (size, whole + 2) == (theirs.vocab_size, len(theirs))
    assert_same(*pair, "encode", "aaaaa bbbbbb low cccccccccdddddddd l", add_special_tokens=False)
    ends = {
        "eos_token": AddedToken(">>>>|||<||<<|<<", rstrip=True, lstrip=True),
        "pad_token": AddedToken("<<<<<|||>|>>>>|>", rstrip=True, lstrip=True),
    }
    for tokenizer in pair:
        assert tokenizer.add_special_tokens(dict(ends)) == 2
    assert_same(
        *pair,
        "encode",
        ">>>>|||<||<<|<< aaaaa bbbbbb low cccccccccdddddddd <<<<<|||>|>>>>|> l",
        add_special_tokens=False,
    )
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)


def test_add_special_tokens(pair):
    for tokenizer in pair:
        tokenizer.add_special_tokens({"cls_token": AddedToken("[SPECIAL_TOKEN]", lstrip=True, rstrip=True)})
        (index,) = tokenizer.encode("[SPECIAL_TOKEN]", add_special_tokens=False)
        assert "[SPECIAL_TOKEN]" not in tokenizer.decode([index], skip_special_tokens=True)
    assert_same(*pair, "encode", "the dog [SPECIAL_TOKEN] and the fox", add_special_tokens=False)


def test_add_tokens(pair):
    theirs, ours = pair
    size = len(ours)
    for tokenizer in pair:
        assert tokenizer.add_tokens("") == 0
        assert tokenizer.add_tokens("testoken") == 1
        assert tokenizer.add_tokens(["testoken1", "testtoken2"]) == 2
        assert tokenizer.add_special_tokens({}) == 0
        assert tokenizer.add_special_tokens({"bos_token": "[BOS]", "eos_token": "[EOS]"}) == 2
    assert len(ours) == len(theirs) == size + 5
    assert ours.add_special_tokens({"additional_special_tokens": ["<testtoken2>"]}) == 1
    assert ours.add_special_tokens({"additional_special_tokens": ["<testtoken3>", "<testtoken4>"]}) == 2
    assert ours.special_tokens_map["additional_special_tokens"] == ["<testtoken3>", "<testtoken4>"]


def test_one_additional_token_is_a_list_of_one(pair):
    # Named in docs/differences.md.
    ours = pair[1]
    assert ours.add_special_tokens({"additional_special_tokens": "<testtoken1>"}) == 1
    assert ours.additional_special_tokens == ["<testtoken1>"]


def test_special_token_addition(pair):
    ours = pair[1]
    for tokens in (["<tok>"], ["<tok>", "<other>"], ["<other>", "<another>"]):
        ours.add_special_tokens({"additional_special_tokens": tokens})
        assert ours.additional_special_tokens == tokens
    ours.add_special_tokens({"additional_special_tokens": ["<tok>"]}, replace_additional_special_tokens=False)
    assert ours.additional_special_tokens == ["<other>", "<another>", "<tok>"]
    if MAJOR < 5:
        theirs = pair[0]
        for tokens in (["<tok>"], ["<tok>", "<other>"], ["<other>", "<another>"]):
            theirs.add_special_tokens({"additional_special_tokens": tokens})
        theirs.add_special_tokens({"additional_special_tokens": ["<tok>"]}, replace_additional_special_tokens=False)
        assert ours.get_vocab() == theirs.get_vocab()


def test_special_tokens_initialization(load):
    theirs, ours = load(additional_special_tokens=[AddedToken("<special>", lstrip=True)])
    assert_same(theirs, ours, "encode", "Hey this is a <special> token")
    assert ours.encode("<special>", add_special_tokens=False)[0] in ours.encode("Hey this is a <special> token")


def test_added_tokens_serialization(load, tmp_path):
    end = AddedToken("[NEW_EOS]", rstrip=False, lstrip=True, normalized=False, special=True)
    theirs, ours = load(eos_token=end)
    assert repr(ours.added_tokens_decoder[ours.eos_token_id]) == repr(end)
    assert added(ours) == added(theirs)
    for name, tokenizer in (("theirs", theirs), ("ours", ours)):
        tokenizer.save_pretrained(tmp_path / name)
        for library in (transformers.AutoTokenizer, AutoTokenizer):
            again = library.from_pretrained(tmp_path / name)
            assert added(again) == added(theirs)
            assert again.eos_token == "[NEW_EOS]"


def test_added_token_serializable(pair, tmp_path):
    for name, tokenizer in zip(("theirs", "ours"), pair, strict=True):
        tokenizer.add_tokens([AddedToken("new_token", lstrip=True)])
        tokenizer.save_pretrained(tmp_path / name)
    assert added(pair[1].from_pretrained(tmp_path / "ours")) == added(pair[1].from_pretrained(tmp_path / "theirs"))


def test_added_token_are_matched_longest_first(pair):
    for tokenizer in pair:
        tokenizer.add_tokens([AddedToken("extra_id_1"), AddedToken("extra_id_100")])
    assert_same(*pair, "tokenize", "This is some extra_id_100 extra_id_1")


def test_embedded_special_tokens(pair):
    assert_same(*pair, "__call__", f"A, {pair[0].mask_token or '<mask>'} AllenNLP sentence.")


def test_split_special_tokens(load):
    theirs, ours = load(additional_special_tokens=["<my_new_token>"], split_special_tokens=True)
    text = "Hey this is a <my_new_token> token"
    assert_same(theirs, ours, "tokenize", text)
    assert "<my_new_token>" not in ours.tokenize(text)
    assert "<my_new_token>" in ours.tokenize(text, split_special_tokens=False)


def test_get_vocab(pair):
    theirs, ours = pair
    for tokenizer in pair:
        tokenizer.add_tokens(["asdfasdfasdfasdf"])
    assert ours.get_vocab() == theirs.get_vocab()
    assert [ours.convert_ids_to_tokens(index) for index in range(len(ours))] == [
        theirs.convert_ids_to_tokens(index) for index in range(len(theirs))
    ]


def test_conversion_reversible(pair):
    ours = pair[1]
    for token, index in ours.get_vocab().items():
        assert ours.convert_tokens_to_ids(token) == index
        assert ours.convert_ids_to_tokens(index) == token


def test_special_tokens_map_equal(pair):
    assert pair[1].special_tokens_map == attribute(pair[0], "special_tokens_map")
    assert set(pair[1].all_special_tokens) == set(pair[0].all_special_tokens)


def test_separate_tokenizers(load):
    left, right = load(padding_side="left")[1], load(padding_side="right")[1]
    left.add_tokens(["only_here"])
    assert (left.padding_side, right.padding_side) == ("left", "right")
    assert (left.init_kwargs["padding_side"], right.init_kwargs["padding_side"]) == ("left", "right")
    assert "only_here" not in right.get_vocab()


def test_unknown_arguments_are_refused(folder):
    # Named in docs/differences.md.
    for name in ("random_argument", "add_special_tokens", "get_vocab"):
        with pytest.raises(InputError, match=name):
            AutoTokenizer.from_pretrained(folder, **{name: True})


# Text to ids


def test_rust_and_python_full_tokenizers(pair):
    for special in (True, False):
        assert_same(*pair, "encode", TEXT, add_special_tokens=special)


def test_tokenization_python_rust_equals(pair):
    for arguments in (
        {},
        {"max_length": 12, "truncation": True},
        {"max_length": 12, "truncation": True, "stride": 3, "return_overflowing_tokens": True},
    ):
        assert_same(*pair, "__call__", TEXT, **arguments)
    assert_same(*pair, "__call__", TEXT, TEXT)


def test_internal_consistency(pair):
    ours = pair[1]
    text = "the quick brown fox"
    ids = ours.convert_tokens_to_ids(ours.tokenize(text))
    assert ids == ours.encode(text, add_special_tokens=False)
    assert len(ours.convert_ids_to_tokens(ids)) == len(ids) > 0
    assert_same(*pair, "decode", ids)


def test_encode_decode_with_spaces(pair):
    for tokenizer in pair:
        new = ("[ABC]", "[DEF]", "GHI IHG")
        tokenizer.add_tokens([AddedToken(token, normalized=True, lstrip=True, rstrip=True) for token in new])
        tokenizer.add_tokens([AddedToken("[SAMPLE]", normalized=True)], special_tokens=True)
    for text in ("[ABC][DEF][ABC]GHI IHG[DEF]", "[ABC] [DEF][SAMPLE]"):
        ids = pair[0].encode(text, add_special_tokens=False)
        for between in (True, False):
            assert_same(*pair, "decode", ids, spaces_between_special_tokens=between)


def test_encode_decode_fast_slow_all_tokens(pair):
    theirs, ours = pair
    ids = list(range(0, len(ours), 3))
    assert_same(theirs, ours, "decode", ids)
    assert_same(theirs, ours, "encode", theirs.decode(ids))


def test_convert_tokens_to_string_format(pair):
    assert_same(*pair, "convert_tokens_to_string", ["this", "is", "a", "test"])


def test_sentencepiece_tokenize_and_convert_tokens_to_string(pair):
    tokens = pair[0].tokenize("this is text to test the tokenizer.")
    assert_same(*pair, "convert_tokens_to_string", tokens)
    assert_same(*pair, "convert_tokens_to_string", pair[0].all_special_tokens)


def test_sentencepiece_tokenize_and_decode(pair):
    ids = ids_of(pair[0]("This is text to test the tokenizer."))
    assert ids_of(pair[1]("This is text to test the tokenizer.")) == ids
    for skip in (True, False):
        assert_same(*pair, "decode", ids, skip_special_tokens=skip)


def test_mask_output(pair):
    answer = pair[1]("Test this method.", SECOND, return_token_type_ids=True)
    assert len(answer["input_ids"]) == len(answer["token_type_ids"])


def test_token_type_ids(pair):
    assert 0 in pair[1]("Test this method.", return_token_type_ids=True)["token_type_ids"]
    for second in (None, SECOND):
        assert_same(*pair, "__call__", "Test this method.", second, return_token_type_ids=True)


def test_sequence_ids(pair):
    for second in (None, SECOND):
        answers = [tokenizer("Test this method.", second) for tokenizer in pair]
        assert answers[1].sequence_ids() == answers[0].sequence_ids()


def test_number_of_added_tokens(pair):
    theirs, ours = pair
    for two in (False, True):
        assert ours.num_special_tokens_to_add(pair=two) == theirs.num_special_tokens_to_add(pair=two)
    bare = ours.encode("Test this method.", SECOND, add_special_tokens=False)
    assert len(ours.encode("Test this method.", SECOND)) - len(bare) == ours.num_special_tokens_to_add(pair=True)


@of_4
def test_max_length_equal(pair):
    assert pair[1].max_len_single_sentence == pair[0].max_len_single_sentence
    assert pair[1].max_len_sentences_pair == pair[0].max_len_sentences_pair


def test_special_tokens_mask(pair):
    assert_same(*pair, "__call__", "Encode this.", return_special_tokens_mask=True)


def test_special_tokens_mask_input_pairs(pair):
    assert_same(*pair, "__call__", "Encode this.", "This one too please.", return_special_tokens_mask=True)


def test_offsets_mapping(pair):
    for second in (None, SECOND):
        assert_same(
            *pair,
            "__call__",
            TEXT,
            second,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            add_special_tokens=True,
        )


def test_alignment_methods(pair):
    theirs, ours = (tokenizer(["Wonderful no inspiration example", "the lazy dog"]) for tokenizer in pair)
    for row in (0, 1):
        assert ours.word_ids(row) == theirs.word_ids(row)
        assert ours.tokens(row) == theirs.tokens(row)
        for index in range(len(ours["input_ids"][row])):
            assert ours.token_to_word(row, index) == theirs.token_to_word(row, index)
            assert ours.token_to_sequence(row, index) == theirs.token_to_sequence(row, index)
            if theirs.token_to_word(row, index) is not None:
                assert ours.token_to_chars(row, index) == theirs.token_to_chars(row, index)
        for char in range(12):
            assert ours.char_to_token(row, char) == theirs.char_to_token(row, char)
            assert ours.char_to_word(row, char) == theirs.char_to_word(row, char)
        for word in range(1 + max(index for index in theirs.word_ids(row) if index is not None)):
            assert ours.word_to_tokens(row, word) == theirs.word_to_tokens(row, word)
            assert ours.word_to_chars(row, word) == theirs.word_to_chars(row, word)


def test_fast_only_inputs(pair):
    for method in ("tokenize", "encode", "__call__"):
        with pytest.raises(TypeError):
            getattr(pair[1], method)(None)


def test_is_fast(pair):
    assert pair[1].is_fast is pair[0].is_fast is True


def test_call(pair):
    theirs, ours = pair
    assert ours.encode_plus(TEXTS[0]) == ours(TEXTS[0])
    assert ours.encode_plus(TEXTS[0], TEXTS[1]) == ours(TEXTS[0], TEXTS[1])
    assert ours.batch_encode_plus(TEXTS) == ours(TEXTS)
    assert ours.batch_encode_plus(list(zip(TEXTS, TEXTS, strict=True))) == ours(TEXTS, TEXTS)
    assert_same(theirs, ours, "__call__", TEXTS, TEXTS)


def test_pretokenized_inputs(pair):
    words = ["the", "quick", "brown", "fox"]
    for arguments in ((words,), (words, words), ([words, words[:2]],)):
        for special in (True, False):
            assert_alike(*pair, "__call__", *arguments, is_split_into_words=True, add_special_tokens=special)


def test_compare_add_special_tokens(pair):
    for text in ("", " "):
        for special in (True, False):
            assert_same(*pair, "tokenize", text, add_special_tokens=special)
            assert_same(*pair, "__call__", [text, text], add_special_tokens=special)


def test_empty_input_string(pair):
    assert pair[1]("", return_tensors="np")["input_ids"].dtype == np.int64
    # Named in docs/differences.md.
    with pytest.raises(InputError, match='return_tensors="np"'):
        pair[1]("", return_tensors="pt")


@pytest.mark.parametrize("prefix", [True, False])
def test_rust_tokenizer_add_prefix_space(load, prefix, family):
    if family == "llama":
        pytest.skip("transformers converts the slow tokenizer's file then, which a folder of tokenizer.json has not")
    if family == "albert" and MAJOR >= 5:
        pytest.skip("transformers 5 builds this class's pre-tokenizer anew: docs/differences.md")
    theirs, ours = load(add_prefix_space=prefix)
    assert ours.add_prefix_space is prefix
    for text in ("the fox", " the fox", TEXT):
        assert_same(theirs, ours, "encode", text)


def test_np_encode_plus_sent_to_model(pair):
    padded(pair)
    assert_same(*pair, "__call__", TEXTS, padding=True, return_tensors="np")


# Truncation


@pytest.mark.parametrize("second", [False, True])
def test_maximum_encoding_length(load, caplog, second):
    theirs, ours = padded(load(model_max_length=20))
    text = "the quick brown fox " * 30
    more = ("the dog " * 25,) if second else ()
    for padding in (False, True, "longest"):
        for truncation in (True, "longest_first", "only_first", "only_second"):
            for given in ((text, *more), ([text], *([one] for one in more))):
                assert_alike(theirs, ours, "__call__", *given, padding=padding, truncation=truncation)
    for strategy in ("longest_first", "only_first", "only_second"):
        assert_alike(
            theirs,
            ours,
            "__call__",
            text,
            *more,
            max_length=12,
            truncation=strategy,
            stride=2,
            return_overflowing_tokens=True,
        )
    # The warning comes from another logger: docs/differences.md.
    with caplog.at_level(logging.WARNING, logger="untorch.tokenizer"):
        ours(text, *more, truncation=False)
    assert "longer than the model's maximum of 20" in caplog.text


def test_truncation_side_in_kwargs(load):
    for side in ("left", "right"):
        theirs, ours = load(truncation_side=side)
        assert ours.truncation_side == theirs.truncation_side == side
        assert_same(theirs, ours, "__call__", TEXT, truncation=True, max_length=6)
    with pytest.raises(ValueError, match="unauthorized"):
        load(truncation_side="right")[1].from_pretrained(theirs.name_or_path, truncation_side="unauthorized")


def test_right_and_left_truncation(pair):
    for side in ("right", "left"):
        for tokenizer in pair:
            tokenizer.truncation_side = side
        for arguments in (
            {"truncation": True, "max_length": 6},
            {"truncation": False},
            {"truncation": "longest_first"},
        ):
            assert_same(*pair, "encode", "This is a test sequence", **arguments)


def test_batch_encode_plus_overflowing_tokens(pair):
    padded(pair)
    assert_same(*pair, "__call__", TEXTS, return_overflowing_tokens=True, truncation=True, padding=True, max_length=5)


def test_batch_encode_dynamic_overflowing(pair):
    padded(pair)
    for texts in ("HuggingFace is solving NLP one commit at a time", ["HuggingFace is solving NLP", "tiny"]):
        assert_same(
            *pair,
            "__call__",
            texts,
            max_length=6,
            padding=True,
            truncation="only_first",
            return_tensors="np",
            return_overflowing_tokens=True,
        )


# Padding


def test_padding_side_in_kwargs(load, folder):
    for side in ("left", "right"):
        theirs, ours = padded(load(padding_side=side))
        assert ours.padding_side == theirs.padding_side == side
        assert_same(theirs, ours, "__call__", TEXTS, padding=True)
    with pytest.raises(ValueError, match="unauthorized"):
        AutoTokenizer.from_pretrained(folder, padding_side="unauthorized")


def test_right_and_left_padding(pair):
    without = pair[1].pad_token_id is None
    if without:
        with pytest.raises(ValueError, match="pad token"):
            pair[1](TEXTS, padding=True)
    padded(pair)
    for side in ("right", "left"):
        for tokenizer in pair:
            tokenizer.padding_side = side
        for arguments in ({"padding": "max_length", "max_length": 30}, {"padding": True}, {"padding": "longest"}, {}):
            assert_same(*pair, "encode", "Sequence", **arguments)


def test_padding_to_multiple_of(pair):
    padded(pair)
    for text in ("", "This is a sample input"):
        assert_same(*pair, "__call__", text, padding=True, pad_to_multiple_of=8)
    assert_same(*pair, "__call__", "This", pad_to_multiple_of=8)
    assert_same(*pair, "__call__", "This", padding=True, truncation=True, pad_to_multiple_of=8)
    with pytest.raises(ValueError, match="multiple"):
        pair[1]("This", padding=True, truncation=True, max_length=12, pad_to_multiple_of=8)


def test_padding_with_attention_mask(pair):
    padded(pair)
    rows = [
        {"input_ids": [1, 2, 3, 4, 5, 6], "attention_mask": [1, 1, 1, 1, 1, 0]},
        {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 0]},
    ]
    assert_same(*pair, "pad", rows)


@pytest.mark.parametrize("by_call", [True, False])
def test_encode_plus_with_padding(pair, by_call):
    padded(pair)
    for side in ("right", "left"):
        for tokenizer in pair:
            tokenizer.padding_side = "right" if by_call else side
        arguments = {"padding_side": side} if by_call else {}
        for padding in (True, False, "max_length"):
            assert_same(
                *pair,
                "__call__",
                "Sequence",
                padding=padding,
                max_length=30,
                truncation=True,
                return_special_tokens_mask=True,
                **arguments,
            )


def test_batch_encode_plus_batch_sequence_length(pair):
    padded(pair)
    for arguments in ({"padding": False}, {"padding": True}, {"padding": "longest", "max_length": 40}):
        assert_same(*pair, "__call__", TEXTS, **arguments)


def test_batch_encode_plus_padding(pair):
    padded(pair)
    for side in ("right", "left"):
        for tokenizer in pair:
            tokenizer.padding_side = side
        assert_same(*pair, "__call__", TEXTS, max_length=40, padding="max_length", truncation=True)
        rows = [pair[1](text, max_length=40, padding="max_length", truncation=True) for text in TEXTS]
        batch = pair[1](TEXTS, max_length=40, padding="max_length", truncation=True)
        assert [row["input_ids"] for row in rows] == batch["input_ids"]


def test_padding(pair):
    padded(pair)
    encoded = [facts(tokenizer(TEXTS))["values"] for tokenizer in pair]
    assert encoded[0] == encoded[1]
    rows = [dict(zip(encoded[0], row, strict=True)) for row in zip(*encoded[0].values(), strict=True)]
    for arguments in ({"padding": "longest"}, {"padding": "max_length", "max_length": 40}, {"pad_to_multiple_of": 5}):
        for rows in (
            encoded[0],
            [dict(zip(encoded[0], row, strict=True)) for row in zip(*encoded[0].values(), strict=True)],
        ):
            assert_same(*pair, "pad", rows, **arguments)
    assert_same(*pair, "pad", {"input_ids": [[], []]}, max_length=10, padding="max_length")


def test_padding_different_model_input_name(pair):
    padded(pair)
    for tokenizer in pair:
        tokenizer.model_input_names = ["inputs", *tokenizer.model_input_names[1:]]
    encoded = {"inputs": [[1, 2, 3], [4]], "attention_mask": [[1, 1, 1], [1]]}
    assert_same(*pair, "pad", encoded, padding="longest")


def test_padding_warning_message_fast_tokenizer(pair, caplog):
    # Named in docs/differences.md: no advice is logged.
    padded(pair)
    with caplog.at_level(logging.WARNING, logger="untorch.tokenizer"):
        pair[1].pad(pair[1]("This is a text"))
    assert not caplog.records


# Ids without a text


@of_4
def test_prepare_for_model(pair):
    ids = pair[0].encode("Testing the prepare_for_model method.", add_special_tokens=False)
    for second in (None, ids[:3]):
        assert_same(*pair, "prepare_for_model", list(ids), second, add_special_tokens=True)
    assert dict(pair[1].prepare_for_model(ids)) == dict(pair[1]("Testing the prepare_for_model method."))


@of_4
def test_create_token_type_ids(pair, family):
    if family in ("gpt2", "llama"):
        pytest.skip("transformers' own answer leaves the special tokens out for this family: docs/differences.md")
    for second in (None, [1, 2, 3]):
        ours = pair[1].create_token_type_ids_from_sequences([1, 2, 3], second)
        assert ours == pair[0].create_token_type_ids_from_sequences([1, 2, 3], second)


@of_4
def test_build_inputs_with_special_tokens(pair):
    for first in ("", "This is a sample input"):
        ids = pair[0].encode(first, add_special_tokens=False)
        for second in (None, "", "This is a sample pair"):
            more = None if second is None else pair[0].encode(second, add_special_tokens=False)
            assert_same(*pair, "build_inputs_with_special_tokens", ids, more)


# Chats


def test_chat_template(pair, tmp_path):
    theirs, ours = pair
    for arguments in ({"tokenize": False}, {"tokenize": True, "return_dict": False}, {"return_dict": True}):
        assert_same(theirs, ours, "apply_chat_template", CHAT, chat_template=PLAIN_CHAT, **arguments)
    ours.chat_template = PLAIN_CHAT
    for number, files in enumerate((True, False)):
        written = ours.save_pretrained(tmp_path / str(number), save_jinja_files=files)
        assert any(path.endswith("chat_template.jinja") for path in written) is files
        config = json.loads((tmp_path / str(number) / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert ("chat_template" in config) is not files
        for library in (transformers.AutoTokenizer, AutoTokenizer):
            again = library.from_pretrained(tmp_path / str(number))
            assert again.chat_template == PLAIN_CHAT
            assert again.apply_chat_template(CHAT, tokenize=False) == theirs.apply_chat_template(
                CHAT, chat_template=PLAIN_CHAT, tokenize=False
            )


def test_chat_template_batched(pair):
    chats = [CHAT, CHAT[:2]]
    for given in (chats, chats[:1]):
        assert_same(*pair, "apply_chat_template", given, chat_template=PLAIN_CHAT, tokenize=False)
        assert_same(*pair, "apply_chat_template", given, chat_template=PLAIN_CHAT, return_dict=False)


def test_jinja_loopcontrols(pair):
    template = (
        "{%- for message in messages %}{{- message.role }}{%- if loop.first %}{%- break %}{%- endif %}{%- endfor %}"
    )
    assert_same(*pair, "apply_chat_template", CHAT, chat_template=template, tokenize=False)


def test_jinja_strftime(pair):
    template = '{{- strftime_now("%Y-%m-%d") }}'
    assert_same(*pair, "apply_chat_template", CHAT, chat_template=template, tokenize=False)


def test_chat_template_return_assistant_tokens_mask(pair):
    for chats in (CHAT, [CHAT, CHAT]):
        assert_same(
            *pair,
            "apply_chat_template",
            chats,
            chat_template=MARKED_CHAT,
            return_assistant_tokens_mask=True,
            return_dict=True,
        )


def test_chat_template_return_assistant_tokens_mask_truncated(pair):
    whole = pair[0].apply_chat_template(CHAT, chat_template=MARKED_CHAT, return_dict=True)
    assert_same(
        *pair,
        "apply_chat_template",
        [CHAT, CHAT],
        chat_template=MARKED_CHAT,
        return_assistant_tokens_mask=True,
        return_dict=True,
        truncation=True,
        max_length=len(whole["input_ids"]) - 2,
    )


@pytest.mark.parametrize("content", ["assistant message", "assistant message ", "user"])
def test_continue_final_message(pair, content):
    chat = [*CHAT[:2], {"role": "assistant", "content": content}]
    for go_on in (True, False):
        assert_same(
            *pair,
            "apply_chat_template",
            chat,
            chat_template=CLOSED_CHAT,
            tokenize=False,
            continue_final_message=go_on,
        )


def test_continue_final_message_with_decoy_earlier_message(pair):
    said = [("user", "hi 0"), ("assistant", "bye: 0"), ("user", "hi 1"), ("assistant", "bye: ")]
    chat = [{"role": role, "content": content} for role, content in said]
    assert_same(
        *pair, "apply_chat_template", chat, chat_template=CLOSED_CHAT, tokenize=False, continue_final_message=True
    )


def test_chat_template_dict(pair):
    for tokenizer in pair:
        tokenizer.chat_template = {"template1": "{{'a'}}", "template2": "{{'b'}}"}
    for name in ("template1", "template2", "{{'c'}}"):
        assert_same(*pair, "apply_chat_template", CHAT, chat_template=name, tokenize=False)


def test_chat_template_dict_saving(pair, tmp_path):
    templates = {"default": "{{'a'}}", "template2": "{{'b'}}"}
    pair[1].chat_template = templates
    pair[1].save_pretrained(tmp_path / "files")
    assert (tmp_path / "files" / "chat_template.jinja").is_file()
    assert (tmp_path / "files" / "additional_chat_templates" / "template2.jinja").is_file()
    pair[1].save_pretrained(tmp_path / "config", save_jinja_files=False)
    config = json.loads((tmp_path / "config" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["chat_template"] == [{"name": name, "template": text} for name, text in templates.items()]
    for folder in ("files", "config"):
        for library in (transformers.AutoTokenizer, AutoTokenizer):
            assert library.from_pretrained(tmp_path / folder).chat_template == templates


def test_chat_template_file_priority(pair, tmp_path):
    pair[1].chat_template = "a"
    pair[1].save_pretrained(tmp_path, save_jinja_files=False)
    (tmp_path / "chat_template.jinja").write_text("b")
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == "b"


# Saving


def test_save_pretrained(pair, tmp_path):
    theirs, ours = pair
    files = {path.rpartition("/")[2] for path in map(str, ours.save_pretrained(tmp_path / "ours"))}
    assert {"tokenizer.json", "tokenizer_config.json"} <= files
    ours.save_pretrained(tmp_path / "named", legacy_format=False)
    with pytest.raises(InputError, match="legacy_format"):
        ours.save_pretrained(tmp_path / "old", legacy_format=True)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again.special_tokens_map == theirs.special_tokens_map
    assert again(TEXT).data == theirs(TEXT).data


def test_local_files_only(folder):
    first, second = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert first.get_vocab() == second.get_vocab()
    assert first.special_tokens_map == second.special_tokens_map
