"""What a call is given: the same texts in every form get the same answers, and no two texts become a pair."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import warnings
from collections import UserDict, deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import cases
from untorch import Batcher, InputError, pipeline

BUNDLE = Path(__file__).parents[2] / "data/bundle-v1"


@pytest.fixture(scope="module")
def classify():
    return pipeline(None, BUNDLE, precision="fp32", device="cpu", threads=1)


@pytest.fixture(scope="module")
def embed():
    return pipeline("sentence-embeddings", BUNDLE, precision="fp32", device="cpu", threads=1)


class Dataset:
    """As a data set of torch or datasets shows itself; iterating over it would give something else."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        return self.items[number]

    def __iter__(self):
        raise AssertionError("items are asked for by their number")


class Column:
    """As a column of Arrow shows itself."""

    def __init__(self, items):
        self.to_pylist = lambda: items


def series(texts):
    pandas = pytest.importorskip("pandas")
    return pandas.Series(texts, index=range(100, 100 + len(texts)))


SEVERAL = {
    "tuple": tuple,
    "numpy's own texts": np.array,
    "numpy's objects": lambda texts: np.array(texts, dtype=object),
    "Series": series,
    "column": Column,
}
STREAMS = {
    "generator": lambda texts: (text for text in texts),
    "iterator": iter,
    "map": lambda texts: map(str, texts),
    "data set": Dataset,
    "deque": deque,
    "keys": lambda texts: dict.fromkeys(texts).keys(),
}
TEXTS = [["good film"], ["good film", "awful mess"], ["a", "b c", "d e f"]]


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("form", SEVERAL)
def test_several_texts_in_any_form_are_answered_as_a_list(classify, form, texts):
    assert classify(SEVERAL[form](texts)) == classify(texts)


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("form", STREAMS)
def test_a_stream_in_any_form_gives_a_stream_of_the_same_answers(classify, form, texts):
    answers = classify(STREAMS[form](texts))
    assert not isinstance(answers, list)
    scores = [answer["score"] for answer in answers]
    assert scores == pytest.approx([answer["score"] for answer in classify(texts)], abs=1e-5)


def test_one_text_in_any_form(classify):
    assert classify(np.str_("good film")) == classify(np.array("good film")) == classify("good film")
    pair = {"text": "good film", "text_pair": "awful mess"}
    assert classify(UserDict(pair)) == classify(pair)


@pytest.mark.parametrize(
    "item",
    [
        np.array(["good film", "awful mess"]),
        ("good film", "awful mess"),
        ["good film", "awful mess"],
        [("good film", "awful mess")],
        {"text": ["good film", "awful mess"]},
        {"text": "good film", "text_pair": ["awful mess"]},
    ],
)
def test_two_texts_inside_a_list_are_refused_not_taken_for_a_pair(classify, item):
    with pytest.raises(InputError):
        classify([item])
    with Batcher(classify) as batcher, pytest.raises(InputError):
        batcher(item)


def test_tables_and_arrays_of_more_axes_are_refused(classify):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match="pass the column"):
        classify(pandas.DataFrame({"text": ["a"]}))
    with pytest.raises(InputError, match="one axis"):
        classify(np.array([["a", "b"]]))


def test_nothing_and_too_much_are_refused(classify):
    with pytest.raises(InputError, match="nothing to answer"):
        classify()
    with pytest.raises(InputError, match="2 positional"):
        classify("a", "b")
    assert classify(inputs="a") == classify("a")


ITEMS = st.lists(
    st.text("ab ", max_size=8)
    | st.fixed_dictionaries({"text": st.text("ab ", max_size=8)}, optional={"text_pair": st.text("ab ", max_size=8)}),
    max_size=8,
)


@cases(60)
@given(items=ITEMS)
def test_pairs_and_single_texts_are_answered_each_by_itself(classify, items):
    alone = [classify([item])[0]["score"] for item in items]
    assert [answer["score"] for answer in classify(items)] == pytest.approx(alone, abs=1e-5)


@cases(60)
@given(texts=st.lists(st.sampled_from(["", "good", "awful mess", "a b c d"]), min_size=1, max_size=8))
def test_an_empty_text_has_the_vector_that_it_has_alone(embed, texts):
    for pooling in ("lasttoken", "mean", "cls", "max", ["mean", "lasttoken"]):
        arguments = {"pooling": pooling, "add_special_tokens": False}
        for text, vector in zip(texts, embed(texts, **arguments), strict=True):
            np.testing.assert_allclose(vector, embed(text, **arguments), atol=1e-5)
            assert text or not vector.any()


def test_a_text_of_no_tokens_is_refused_by_its_number_where_it_has_no_answer(classify):
    with pytest.raises(InputError, match="text 1 is empty"):
        classify(["good", "", "film"], add_special_tokens=False)
    with pytest.raises(InputError, match="the text is empty"):
        classify("", add_special_tokens=False)


@cases(30)
@given(texts=st.lists(st.sampled_from(["", "good", "awful mess", "a b c d"]), max_size=8), size=st.none() | st.just(3))
def test_texts_of_any_lengths_are_answered_without_a_pad_token(classify, texts, size):
    bare = pipeline(None, classify.model)
    bare.tokenizer.pad_token = None
    scores = [answer["score"] for answer in bare(texts, batch_size=size)]
    assert scores == pytest.approx([answer["score"] for answer in classify(texts)], abs=1e-5)


COPIES = {
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_pipeline_is_loaded_as_the_original_was(way, monkeypatch, tmp_path):
    monkeypatch.chdir(BUNDLE.parent)
    original = pipeline("text-classification", BUNDLE.name, precision="fp32", device="cpu", top_k=2, batch_size=3)
    monkeypatch.chdir(tmp_path)
    other = COPIES[way](original)
    assert (other.precision, other.device, other.task) == ("fp32", "cpu", "text-classification")
    assert other(["good", "film"]) == original(["good", "film"])


def test_a_pipeline_is_sent_to_a_process_that_was_spawned(classify):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (answer,) = pool.map(classify, ["good film"])
    assert answer[0]["score"] == pytest.approx(classify("good film")[0]["score"], abs=1e-5)


def test_a_batcher_answers_as_a_list_does_whatever_the_task_does_with_one(embed):
    with Batcher(embed) as batcher, warnings.catch_warnings():
        np.testing.assert_allclose(batcher("good film"), embed("good film"), atol=1e-6)
