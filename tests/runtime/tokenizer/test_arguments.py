"""Any arguments of a call, in any combination, answer as transformers'."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import cases
from helpers.tokenizers import HOSTILE, MAJOR, TINY, VARIANTS, assert_alike, assert_same, facts

SHORT = [text for text in HOSTILE if len(text) < 120]

texts = st.sampled_from(SHORT) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
words = st.lists(texts, max_size=6)
options = st.fixed_dictionaries(
    {},
    optional={
        "add_special_tokens": st.booleans(),
        "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from(
            [True, False, None, "longest_first", "only_first", "only_second", "do_not_truncate"]
        ),
        "max_length": st.none() | st.integers(0, 30),
        "stride": st.integers(0, 4),
        "pad_to_multiple_of": st.none() | st.sampled_from([1, 4, 8]),
        "padding_side": st.sampled_from([None, "left", "right"]),
        "return_tensors": st.sampled_from([None, "np"]),
        "return_token_type_ids": st.none() | st.booleans(),
        "return_attention_mask": st.none() | st.booleans(),
        "return_overflowing_tokens": st.booleans(),
        "return_special_tokens_mask": st.booleans(),
        "return_offsets_mapping": st.booleans(),
        "return_length": st.booleans(),
        "verbose": st.booleans(),
        "split_special_tokens": st.booleans(),
    },
)


@st.composite
def calls(draw):
    """The positional and keyword arguments of one call."""
    shape = draw(st.sampled_from(["one", "pair", "batch", "pairs", "tuples", "words", "word pair", "word batch"]))
    some = st.lists(texts, min_size=1, max_size=4)
    arguments = draw(options)
    if "word" in shape:
        arguments["is_split_into_words"] = True
        if shape == "words":
            return [draw(words)], arguments
        if shape == "word pair":
            return [draw(words), draw(words)], arguments
        return [draw(st.lists(words.filter(bool), min_size=1, max_size=3))], arguments
    if shape == "tuples":
        return [draw(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))], arguments
    if shape in ("one", "pair"):
        return [draw(texts) for _ in range(1 + (shape == "pair"))], arguments
    first = draw(some)
    return [first, *([first[::-1]] if shape == "pairs" else [])], arguments


def ragged(theirs, arguments, keywords) -> bool:
    """transformers makes arrays of objects from rows of different lengths; untorch refuses."""
    lists = theirs(*arguments, **{**keywords, "return_tensors": None})["input_ids"]
    return bool(lists) and isinstance(lists[0], list) and len({len(row) for row in lists}) > 1


@pytest.mark.filterwarnings("ignore:.max_length. is ignored", "ignore:max_length is ignored")
@cases(1200)
@given(kind=st.sampled_from(sorted(TINY)), variant=st.sampled_from(sorted(VARIANTS)), call=calls())
def test_any_call(tiny_pair, kind, variant, call):
    theirs, ours = tiny_pair(kind, variant)
    arguments, keywords = call
    try:
        if keywords.get("return_tensors") and ragged(theirs, arguments, keywords):
            keywords["return_tensors"] = None
    except BaseException as error:
        # What transformers refuses is compared below; a Rust panic is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
    assert_alike(theirs, ours, "__call__", *arguments, **keywords)


@cases(200)
@given(
    kind=st.sampled_from(["wordpiece", "unigram", "byte_bpe"]),
    batch=st.lists(texts, min_size=1, max_size=4),
    padding=st.sampled_from([True, "longest", "max_length", False]),
    multiple=st.none() | st.integers(1, 8),
    side=st.sampled_from([None, "left", "right"]),
    tensors=st.sampled_from([None, "np"]),
    form=st.sampled_from(["encoding", "dict", "list", "single", "arrays", "no mask"]),
    mask=st.none() | st.booleans(),
)
def test_pad(tiny_pair, kind, batch, padding, multiple, side, tensors, form, mask):
    theirs, ours = tiny_pair(kind)

    def rows(tokenizer):
        encoded = tokenizer(batch, return_special_tokens_mask=True)
        if form == "encoding":
            return encoded
        if form == "no mask":
            return {"input_ids": encoded["input_ids"]}
        if form == "single":
            return {name: value[0] for name, value in encoded.items()}
        if form == "list":
            return [{name: value[i] for name, value in encoded.items()} for i in range(len(batch))]
        if form == "arrays":
            return {name: [np.array(row) for row in value] for name, value in encoded.items()}
        return dict(encoded)

    keywords = {"padding": padding, "pad_to_multiple_of": multiple, "padding_side": side, "return_attention_mask": mask}
    lengths = {len(row) for row in ours(batch)["input_ids"]}
    if padding is False and len(lengths) > 1 and (tensors or form == "arrays"):
        return
    if padding == "max_length":
        keywords["max_length"] = max(lengths) + 3
    if (
        (padding is False or mask is False)
        and "mask" not in form
        and len(lengths) > 1
        and (tensors or form == "arrays")
    ):
        return
    theirs_answer = theirs.pad(rows(theirs), return_tensors=tensors, **keywords)
    ours_answer = ours.pad(rows(ours), return_tensors=tensors, **keywords)
    assert {name: facts(value) for name, value in ours_answer.items()} == {
        name: facts(value) for name, value in theirs_answer.items()
    }


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_targets_become_labels(kind, tiny_pair):
    theirs, ours = tiny_pair(kind)
    assert_same(theirs, ours, "__call__", ["The fox", "a dog"], text_target=["One", "two three"], padding=True)
    assert_same(theirs, ours, "__call__", text_target="One", text_pair_target="two")


def test_the_older_methods(tiny_pair):
    theirs, ours = tiny_pair("wordpiece")
    assert_same(theirs, ours, "encode", "The fox", "a dog", truncation=True, max_length=4)
    assert_same(theirs, ours, "encode", "The fox", return_tensors="np")
    assert_same(theirs, ours, "tokenize", "The fox", "a dog", add_special_tokens=True)
    # transformers 5 has the call alone for what these do.
    one, many = ("encode_plus", "batch_encode_plus") if MAJOR < 5 else ("__call__", "__call__")
    pairs = [("The fox", "a dog"), ("it", "is")]
    expected = getattr(theirs, one)("The fox", "a dog", return_offsets_mapping=True)
    assert facts(ours.encode_plus("The fox", "a dog", return_offsets_mapping=True)) == facts(expected)
    assert facts(ours.batch_encode_plus(pairs, padding=True)) == facts(getattr(theirs, many)(pairs, padding=True))
