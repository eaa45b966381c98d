"""Tokens that are added, tokenizers that are saved, and sequences of ids without special tokens, as transformers'."""

from __future__ import annotations

import copy
import pickle

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from helpers.fuzzing import cases
from helpers.tokenizers import HOSTILE, MAJOR, TINY, attribute
from untorch import AutoTokenizer, InputError

TEXT = "The quick brown fox <brand> and <user> jumps, two new words."


def both(tiny_folder, kind):
    folder = tiny_folder(kind)
    return transformers.AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", sorted(TINY))
@pytest.mark.parametrize(
    ("tokens", "special"),
    [
        (["<brand>", "fox"], False),
        ("<brand>", True),
        ([AddedToken("<brand>", lstrip=True, rstrip=True), "<brand>"], False),
        ([], False),
    ],
)
def test_added_tokens_have_the_ids_and_the_texts_that_transformers_gives_them(tiny_folder, kind, tokens, special):
    theirs, ours = both(tiny_folder, kind)
    assert ours.add_tokens(tokens, special_tokens=special) == theirs.add_tokens(tokens, special_tokens=special)
    assert len(ours) == len(theirs)
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]
    ids = theirs(TEXT)["input_ids"]
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert (
        ours(TEXT, truncation=True, max_length=9)["input_ids"]
        == theirs(TEXT, truncation=True, max_length=9)["input_ids"]
    )


def test_tokens_added_after_a_truncated_call_are_known_to_the_next_one(tiny_folder):
    theirs, ours = both(tiny_folder, "wordpiece")
    ours(TEXT, truncation=True, max_length=9)
    for tokenizer in (theirs, ours):
        tokenizer.add_tokens(["<brand>"])
    assert (
        ours(TEXT, truncation=True, max_length=9)["input_ids"]
        == theirs(TEXT, truncation=True, max_length=9)["input_ids"]
    )


@pytest.mark.parametrize("kind", sorted(TINY))
@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(
    "special",
    [
        {"additional_special_tokens": ["<user>", "<brand>"]},
        {"pad_token": "<filler>", "additional_special_tokens": [AddedToken("<user>", lstrip=True)]},
        {"cls_token": "fox"},
        {},
    ],
)
def test_special_tokens_are_set_and_added_as_in_transformers(tiny_folder, kind, replace, special):
    theirs, ours = both(tiny_folder, kind)
    argument = "replace_extra_special_tokens" if MAJOR >= 5 else "replace_additional_special_tokens"
    expected = theirs.add_special_tokens(special, **{argument: replace})
    assert ours.add_special_tokens(special, replace_additional_special_tokens=replace) == expected
    assert ours.special_tokens_map == {
        name: [str(token) for token in value] if isinstance(value, list) else str(value)
        for name, value in attribute(theirs, "special_tokens_map").items()
    }
    assert ours.pad_token_id == theirs.pad_token_id
    assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]


@pytest.mark.parametrize(
    ("special", "message"),
    [
        ({"padding_token": "<pad>"}, "padding_token"),
        ({"additional_special_tokens": "<user>"}, None),
        ({"pad_token": ["<pad>"]}, "pad_token is one token"),
        ({"additional_special_tokens": [3]}, "additional_special_tokens is a list"),
    ],
)
def test_what_is_no_special_token_is_refused_by_name(tiny_folder, special, message):
    ours = AutoTokenizer.from_pretrained(tiny_folder("wordpiece"))
    if message is None:
        assert ours.add_special_tokens(special) == 1
        return
    with pytest.raises(InputError, match=message):
        ours.add_special_tokens(special)


@pytest.mark.parametrize("token", ["", 3, None, ["<a>"]])
def test_what_is_no_token_is_refused(tiny_folder, token):
    with pytest.raises(InputError, match="token"):
        AutoTokenizer.from_pretrained(tiny_folder("wordpiece")).add_tokens([token])


def assert_same_tokenizer(first, second):
    for text in [*HOSTILE[:30], TEXT]:
        assert first(text)["input_ids"] == second(text)["input_ids"]
    assert first(TEXT, TEXT)["token_type_ids" if "token_type_ids" in first.model_input_names else "input_ids"]
    for name in ("special_tokens_map", "model_max_length", "padding_side", "truncation_side", "chat_template"):
        assert getattr(first, name) == getattr(second, name), name
    assert list(first.model_input_names) == list(second.model_input_names)
    assert len(first) == len(second)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_a_saved_tokenizer_is_the_same_to_transformers_and_to_untorch(tiny_folder, tmp_path, kind):
    ours = AutoTokenizer.from_pretrained(tiny_folder(kind), padding_side="left")
    ours.add_tokens(["<brand>"])
    ours.add_special_tokens({"additional_special_tokens": ["<user>"]})
    ours.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    written = ours.save_pretrained(tmp_path / "saved")
    assert sorted(written) == sorted(str(path) for path in (tmp_path / "saved").iterdir())
    assert_same_tokenizer(ours, AutoTokenizer.from_pretrained(tmp_path / "saved"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in [*HOSTILE[:30], TEXT]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert theirs.padding_side == "left"
    assert theirs.chat_template == ours.chat_template


@pytest.mark.parametrize("name", ["distilbert-sst2", "roberta-base", "gpt2", "albert"])
def test_a_published_tokenizer_survives_saving(real_folder, tmp_path, name):
    ours = AutoTokenizer.from_pretrained(real_folder(name))
    ours.save_pretrained(tmp_path)
    assert_same_tokenizer(ours, AutoTokenizer.from_pretrained(tmp_path))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == type(transformers.AutoTokenizer.from_pretrained(real_folder(name))).__name__
    assert [ours(text)["input_ids"] for text in HOSTILE] == [theirs(text)["input_ids"] for text in HOSTILE]


def test_named_chat_templates_are_saved_under_their_names(tiny_folder, tmp_path):
    ours = AutoTokenizer.from_pretrained(tiny_folder("wordpiece"))
    ours.chat_template = {"default": "{{ messages[0].content }}", "tool_use": "{{ messages[-1].content }}"}
    ours.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == ours.chat_template
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == ours.chat_template


def test_saving_over_a_file_is_refused(tiny_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        AutoTokenizer.from_pretrained(tiny_folder("wordpiece")).save_pretrained(tmp_path / "file")


def test_copies_and_pickles_are_tokenizers_of_their_own(tiny_folder):
    ours = AutoTokenizer.from_pretrained(tiny_folder("wordpiece"))
    copied, pickled = copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))
    ours.add_tokens(["<brand>"])
    assert len(copied) == len(pickled) == len(ours) - 1


@pytest.fixture(scope="module")
def families(real_folder):
    """Published tokenizers whose class gives types and special tokens a rule of its own."""
    names = ("distilbert-sst2", "bert-base-cased", "roberta-base", "albert")
    return {
        name: (
            transformers.AutoTokenizer.from_pretrained(real_folder(name)),
            AutoTokenizer.from_pretrained(real_folder(name)),
        )
        for name in names
    }


ids = st.lists(st.integers(5, 200), max_size=9)


@pytest.mark.skipif(MAJOR >= 5, reason="transformers 5 has no prepare_for_model, and no call that takes ids")
@cases(400)
@given(
    name=st.sampled_from(["distilbert-sst2", "bert-base-cased", "roberta-base", "albert"]),
    first=ids,
    second=st.none() | ids,
    keywords=st.fixed_dictionaries(
        {},
        optional={
            "add_special_tokens": st.booleans(),
            "padding": st.sampled_from([False, "max_length"]),
            "truncation": st.sampled_from(["longest_first", "only_first", "only_second", False]),
            "max_length": st.integers(6, 20),
            "stride": st.integers(0, 3),
            "return_overflowing_tokens": st.booleans(),
            "return_attention_mask": st.booleans(),
            "return_length": st.booleans(),
        },
    ),
)
@pytest.mark.filterwarnings("ignore")
def test_ids_are_prepared_as_transformers_prepares_them(families, name, first, second, keywords):
    theirs, ours = families[name]
    keywords = {"truncation": False, **keywords, "verbose": False}
    try:
        expected = theirs.prepare_for_model(first, second, **keywords)
    except TypeError:
        return  # it counts what was cut off from no limit at all
    except ValueError:
        with pytest.raises(InputError):
            ours.prepare_for_model(first, second, **keywords)
        return
    special = theirs.num_special_tokens_to_add(second is not None) if keywords.get("add_special_tokens", True) else 0
    excess = len(first) + len(second or ()) + special - keywords.get("max_length", 10**6)
    able = {"only_first": first, "only_second": second or [], "longest_first": [*first, *(second or ())], False: []}
    if excess > 0 and keywords["truncation"] and len(able[keywords["truncation"]]) <= excess:
        # transformers logs that it cannot cut, and goes on with what is too long.
        with pytest.raises(InputError, match="cannot remove"):
            ours.prepare_for_model(first, second, **keywords)
        return
    assert dict(ours.prepare_for_model(first, second, **keywords)) == dict(expected)


def test_what_cannot_be_cut_enough_is_an_error(families):
    _, ours = families["bert-base-cased"]
    with pytest.raises(InputError, match="cannot remove 5 tokens from the first sequence, which has 3"):
        ours.prepare_for_model([7, 8, 9], [7, 8, 9, 10], truncation="only_first", max_length=5)


sentences = st.lists(st.sampled_from(["The", "quick", "fox", "naïve", "北京", "jumps,", "over!"]), max_size=6).map(
    " ".join
)


@cases(100)
@given(
    name=st.sampled_from(["distilbert-sst2", "bert-base-cased", "roberta-base", "albert"]),
    first=sentences,
    second=sentences.filter(bool),
    limit=st.integers(6, 20),
)
def test_types_and_special_tokens_of_ids_are_those_of_a_call(families, name, first, second, limit):
    theirs, ours = families[name]
    kinds = {"return_token_type_ids": True, "return_attention_mask": True, "return_special_tokens_mask": True}
    for texts in ((first,), (first, second)):
        sequences = [theirs(text, add_special_tokens=False)["input_ids"] for text in texts]
        called = theirs(*texts, **kinds)
        assert ours.build_inputs_with_special_tokens(*sequences) == called["input_ids"]
        assert ours.create_token_type_ids_from_sequences(*sequences) == called["token_type_ids"]
        assert ours.get_special_tokens_mask(*sequences) == called["special_tokens_mask"]
        assert dict(ours.prepare_for_model(*sequences, **kinds)) == dict(called)
    keywords = {"truncation": True, "max_length": limit, "padding": "max_length"}
    assert dict(ours.prepare_for_model(sequences[0], **keywords)) == dict(theirs(first, **keywords))


@pytest.mark.skipif(MAJOR >= 5, reason="transformers 5 has neither build_inputs_with_special_tokens nor its like")
@cases(100)
@given(name=st.sampled_from(["distilbert-sst2", "bert-base-cased", "roberta-base", "albert"]), first=ids, second=ids)
def test_types_and_special_tokens_of_ids_are_those_of_the_same_methods(families, name, first, second):
    theirs, ours = families[name]
    for pair in (None, second):
        assert ours.build_inputs_with_special_tokens(first, pair) == theirs.build_inputs_with_special_tokens(
            first, pair
        )
        assert ours.create_token_type_ids_from_sequences(first, pair) == theirs.create_token_type_ids_from_sequences(
            first, pair
        )
        special = ours.get_special_tokens_mask(first, pair)
        built = ours.build_inputs_with_special_tokens(first, pair)
        assert len(special) == len(built)
        assert [index for index, flag in zip(built, special, strict=True) if not flag] == [*first, *(pair or ())]


def test_words_and_to_are_there_as_in_transformers(families):
    theirs, ours = families["bert-base-cased"]
    assert ours(TEXT).words() == theirs(TEXT).word_ids()
    encoded = ours(TEXT, return_tensors="np")
    assert encoded.to("cuda:0") is encoded
