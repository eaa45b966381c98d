"""Every argument of a model's call is used, known to be harmless, or refused by name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import transformers

from helpers.generators import generator
from untorch import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    InputError,
)

IDS = [[2, 10, 11, 12, 3], [2, 20, 3, 0, 0]]
MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
# What is not asked for, in the ways that callers write it.
NOTHING = (None, False, 0)


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return AutoModelForSequenceClassification.from_pretrained(tiny_bundle, precision="fp32")


@pytest.fixture(scope="module")
def generative(make_bundle):
    """(ours, transformers') of a tiny random checkpoint of that family."""

    def get(name, ours, theirs):
        source, bundle = make_bundle(f"{name}-arguments", lambda folder: generator(folder, name), precisions=["fp32"])
        return ours.from_pretrained(bundle), theirs.from_pretrained(source).eval()

    return get


@pytest.fixture(scope="module")
def causal(generative):
    return generative("GPT2", AutoModelForCausalLM, transformers.AutoModelForCausalLM)


@pytest.fixture(scope="module")
def seq2seq(generative):
    return generative("T5", AutoModelForSeq2SeqLM, transformers.AutoModelForSeq2SeqLM)


def names_of(reference):
    """transformers' arguments of a call that a model of ours does not declare itself."""
    declared = {"self", "kwargs", "args", "input_ids", "attention_mask", "token_type_ids", "decoder_input_ids"}
    return [name for name in inspect.signature(type(reference).forward).parameters if name not in declared]


@pytest.mark.parametrize("name", ["attention_msk", "attention_maks", "input_id", "token_typ_ids", "nonsense"])
def test_a_misspelt_argument_is_refused_with_a_suggestion(model, name):
    with pytest.raises(InputError, match=f"AutoModelForSequenceClassification takes no argument {name}") as refused:
        model(IDS[:1], **{name: MASK[:1]})
    assert ("did you mean" in str(refused.value)) == (name != "nonsense")


def test_every_argument_of_transformers_is_used_or_refused_by_name(model, tiny_checkpoint):
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint)
    expected = model(IDS, MASK).logits
    for name in names_of(reference):
        for nothing in NOTHING:
            outputs = model(IDS, MASK, **{name: nothing})
            logits = outputs[0] if isinstance(outputs, tuple) else outputs.logits
            assert np.array_equal(logits, expected)
        if name != "return_dict":
            with pytest.raises(InputError, match=f"takes no {name}: "):
                model(IDS, MASK, **{name: [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]})


def test_what_a_tokenizer_returns_is_taken_whole(model, tiny_bundle):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bundle)
    batch = tokenizer(
        ["hello world", "a"], padding=True, return_tensors="np", return_special_tokens_mask=True,
        return_offsets_mapping=True, return_length=True, return_overflowing_tokens=True, truncation=True, max_length=8,
    )  # fmt: skip
    expected = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}).logits
    assert np.array_equal(model(**batch).logits, expected)


def test_return_dict_decides_the_form(model):
    outputs = model(IDS, MASK, return_dict=False)
    assert type(outputs) is tuple
    assert np.array_equal(outputs[0], model(IDS, MASK, return_dict=True).logits)


# ---- models that generate ----


def test_positions_of_a_language_model_are_those_given(causal):
    ours, theirs = causal
    ids = np.array([[9, 10, 11, 12], [20, 21, 22, 23]])
    for positions in ([[3, 4, 5, 6], [0, 1, 2, 3]], [[7, 1, 4, 2]]):
        with torch.no_grad():
            expected = theirs(torch.tensor(ids), position_ids=torch.tensor(positions)).logits.numpy()
        np.testing.assert_allclose(ours(ids, position_ids=positions).logits, expected, atol=1e-4)
    with pytest.raises(InputError, match="position_ids has shape"):
        ours(ids, position_ids=[[1, 2]])


def test_a_language_model_uses_or_refuses_every_argument_of_transformers(causal):
    ours, theirs = causal
    expected = ours([[9, 10, 11]])
    for name in names_of(theirs):
        outputs = ours([[9, 10, 11]], **{name: None})
        assert np.array_equal(outputs.logits, expected.logits)
        if name not in ("past_key_values", "position_ids", "use_cache", "return_dict"):
            with pytest.raises(InputError, match=f"takes no {name}: "):
                ours([[9, 10, 11]], **{name: [[1, 1, 1]]})
    assert list(expected) == ["logits", "past_key_values"]
    assert list(ours([[9, 10, 11]], use_cache=False)) == ["logits"]
    assert len(ours([[9, 10, 11]], return_dict=False)) == 2


def test_an_encoder_decoder_refuses_what_it_does_not_use(seq2seq):
    ours, theirs = seq2seq
    given = {"input_ids": [[9, 10, 11]], "decoder_input_ids": [[0, 5]]}
    expected = ours(**given).logits
    for name in names_of(theirs):
        assert np.array_equal(ours(**given, **{name: None}).logits, expected)
        if name not in ("use_cache", "return_dict"):
            with pytest.raises(InputError, match=f"takes no {name}: "):
                ours(**given, **{name: [[1, 1, 1]]})
    with pytest.raises(InputError, match="attention_mask has shape"):
        ours(**given, attention_mask=[[1]])


def test_a_generative_base_cannot_be_made():
    from untorch.model.generative import GenerativeModel

    with pytest.raises(TypeError, match="abstract"):
        GenerativeModel(None, None, None)
