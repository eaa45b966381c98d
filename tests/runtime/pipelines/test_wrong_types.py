"""A value of the wrong type is refused with the argument's name, the value and what is wanted, for every argument."""

from __future__ import annotations

import re

import numpy as np
import pytest

from helpers.tasks import call, small_pipeline
from untorch import InputError
from untorch.generation.config import DEFAULTS
from untorch.pipelines import TASKS, class_of
from untorch.values import flag

WRONG = [
    object(),
    3.5,
    "nonsense",
    b"bytes",
    [object()],
    {1: 2},
    {"a": object()},
    np.zeros((2, 2)),
    -7,
    lambda: None,
    1j,
]

# Arguments that take such a value, by its place above: a text is a text, a list of anything may be one of tools.
TAKEN = {
    "candidate_labels": {"nonsense"},
    "delimiter": {"nonsense"},
    "documents": {"list"},
    "hypothesis_template": {"nonsense"},
    "ignore_labels": {"nonsense"},
    "label": {"nonsense"},
    "prefix": {"nonsense"},
    "prompt": {"nonsense"},
    "prompt_name": {"nonsense"},
    "src_lang": {"nonsense"},
    "stop_sequence": {"nonsense"},
    "targets": {"nonsense"},
    "tgt_lang": {"nonsense"},
    "tools": {"list"},
}


def declared():
    for task in TASKS:
        for name in [*class_of(task).parameters_class.declared, "batch_size", "num_workers"]:
            yield task, name


@pytest.mark.parametrize(("task", "name"), declared())
def test_a_wrong_type_is_refused_with_what_is_wanted(task, name):
    refused = 0
    for value in WRONG:
        taken = TAKEN.get(name, set())
        if (isinstance(value, str) and "nonsense" in taken) or (isinstance(value, list) and "list" in taken):
            continue
        if name == "num_workers":  # it only matters where the input is a stream
            value_of = lambda value=value: list(small_pipeline(task)(iter(()), num_workers=value))  # noqa: E731
        else:
            value_of = lambda value=value: call(task, **{name: value})  # noqa: E731
        with pytest.raises(InputError) as error:
            value_of()
        assert re.search(rf"\b{name} is |takes no {name}=|takes no argument |{name}'s|_kwargs", str(error.value)), (
            error.value
        )
        refused += 1
    assert refused >= len(WRONG) - 1


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_of_generate_of_the_wrong_type_is_refused_with_what_is_wanted(task, name):
    for value in (object(), "nonsense", [object()], {"a": 1}, 1j):
        if name == "stop_strings" and isinstance(value, str):
            continue
        if name == "max_length" and task == "text-generation":
            continue  # the pipeline's own, above
        with pytest.raises(InputError, match=rf"\b{name} is "):
            call(task, **{name: value})


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("token-classification", {"ignore_labels": 7}, "ignore_labels is 7; it is a text, or a list of texts"),
        ("token-classification", {"aggregation_strategy": 3}, "aggregation_strategy is 3; it is one of none, simple"),
        ("text-classification", {"top_k": "two"}, "top_k is 'two'; it is a number from 1"),
        ("text-classification", {"batch_size": 0}, "batch_size is 0; it is a number from 1"),
        ("fill-mask", {"targets": 5}, "targets is 5; it is a text, or a list of texts"),
        ("fill-mask", {"tokenizer_kwargs": "x"}, "tokenizer_kwargs is 'x'; it is a mapping"),
        ("text-generation", {"max_new_tokens": "ten"}, "max_new_tokens is 'ten'; it is a number from 1"),
        (
            "text-generation",
            {"tokenizer_encode_kwargs": {"paddin": True}},
            "takes no argument paddin; did you mean padd",
        ),
        ("question-answering", {"padding": 4}, "padding is 4; it is one of True, False, longest"),
    ],
)
def test_what_is_said(task, arguments, message):
    with pytest.raises(InputError, match=message):
        call(task, **arguments)


def test_numpys_numbers_and_truths_are_taken():
    assert call("text-classification", top_k=np.int64(1)) == call("text-classification", top_k=1)
    assert [flag(value) for value in (np.True_, np.False_, 1, 0, True)] == [True, False, True, False, True]
