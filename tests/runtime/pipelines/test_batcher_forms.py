"""Through the batcher, each caller gets the form of answer that the pipeline gives for its one input."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from helpers.tasks import ARGUMENTS, INPUTS, small_pipeline
from untorch import Batcher
from untorch.pipelines import TASKS


def same(got, expected):
    """The same form, keys and texts; numbers to within a batch's rounding."""
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for name, value in expected.items():
            same(got[name], value)
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-5)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    else:
        assert got == expected


@pytest.mark.parametrize("task", TASKS)
def test_each_caller_gets_what_the_pipeline_gives_for_one_input(task):
    pipeline, arguments = small_pipeline(task), ARGUMENTS.get(task, {})
    expected = [pipeline(item, **arguments) for item in INPUTS[task]]

    async def together(batcher):
        return await asyncio.gather(*(batcher.answer(item) for item in INPUTS[task]))

    with Batcher(pipeline, max_wait_ms=50, **arguments) as batcher:
        answers = [batcher(item) for item in INPUTS[task]]
        answers += asyncio.run(together(batcher))
    for got, other in zip(answers, expected * 2, strict=True):
        same(got, other)


@pytest.mark.parametrize("task", TASKS)
def test_several_inputs_get_one_answer_each_whatever_a_list_is_made_into(task):
    pipeline, arguments = small_pipeline(task), ARGUMENTS.get(task, {})
    with Batcher(pipeline, **arguments) as batcher:
        for items in (INPUTS[task], INPUTS[task][:1]):
            same(batcher.submit(items).result(10), pipeline.each(items, **arguments))


def test_arguments_of_a_call_decide_its_form_as_in_a_call_of_the_pipeline():
    classify = small_pipeline("text-classification")
    with Batcher(classify) as batcher:
        for arguments in ({}, {"top_k": 1}, {"top_k": None}, {"top_k": 2}):
            same(batcher("hello", **arguments), classify("hello", **arguments))
