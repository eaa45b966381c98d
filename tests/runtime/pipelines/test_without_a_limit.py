"""Models that state no longest length, as rotary ones may: nothing is cut, and whoever asked for it is told."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import transformers

from helpers.tasks import ARGUMENTS, small_pipeline
from untorch import InputError

LONG = "hello world this movie is great and that film was awful " * 60
ITEMS = {
    "text-classification": LONG,
    "feature-extraction": LONG,
    "sentence-embeddings": LONG,
    "token-classification": LONG,
    "fill-mask": f"[MASK] {LONG}",
    "zero-shot-classification": LONG,
    "multiple-choice": {"text": LONG, "choices": ["is good", "is bad"]},
    "text-ranking": {"query": "hello", "passages": [LONG, "a city"]},
}
NESTED = {"fill-mask": "tokenizer_kwargs", "feature-extraction": "tokenize_kwargs"}


def answer(task, **arguments):
    return small_pipeline(task, unlimited=True)(ITEMS[task], **ARGUMENTS.get(task, {}), **arguments)


def the_same(one, other):
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("task", ITEMS)
def test_truncation_without_a_limit_cuts_nothing_and_says_so(task, caplog):
    whole = answer(task)
    with caplog.at_level(logging.WARNING, "untorch"):
        the_same(answer(task, truncation=True), whole)
    assert "no maximum: not truncating" in caplog.text


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction", "fill-mask", "text-ranking"])
def test_a_length_of_the_callers_own_cuts(task):
    given = {"truncation": True, "max_length": 12}
    given = {NESTED[task]: given} if task in NESTED else given
    if task == "feature-extraction":
        assert len(answer(task, **given)[0]) == 12
        assert len(answer(task)[0]) > 600
    elif task == "fill-mask":
        assert len(answer(task, **given)[0]["sequence"].split()) < 14
    else:
        answer(task, **given)


def test_the_tokenizer_does_as_transformers_does_without_a_limit():
    ours = small_pipeline("feature-extraction", unlimited=True).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(
        small_pipeline("feature-extraction", unlimited=True).model.bundle.path
    )
    assert ours.model_max_length == theirs.model_max_length > 1e20
    assert ours.max_len_single_sentence == theirs.model_max_length - 2
    for options in ({}, {"truncation": True}, {"padding": "max_length"}, {"truncation": True, "padding": "max_length"}):
        assert ours(LONG, **options)["input_ids"] == theirs(LONG, **options)["input_ids"]


def test_windows_without_a_limit_are_one():
    entities = small_pipeline("token-classification", unlimited=True)
    whole = entities(LONG, aggregation_strategy="simple", ignore_labels=[])
    assert entities(LONG, stride=8, aggregation_strategy="simple", ignore_labels=[]) == whole


def test_a_text_grows_until_it_is_told_to_stop():
    generate = small_pipeline("text-generation", unlimited=True)
    arguments = {"do_sample": False, "return_full_text": False, "return_tensors": None}
    assert generate(LONG, max_new_tokens=3, **arguments)
    with pytest.raises(InputError, match="no token is left to generate"):
        generate(LONG, max_length=20, max_new_tokens=None, **arguments)
