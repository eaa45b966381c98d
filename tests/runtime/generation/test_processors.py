"""Every processor on random scores, beside transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tokenizers import MAJOR
from untorch import GenerationConfig
from untorch.generation import processors

VOCABULARY = 40

# Settings, each of which asks for one processor; then some together, whose order matters.
SETTINGS = [
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"encoder_repetition_penalty": 1.7},
    {"encoder_repetition_penalty": 0.6},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 3},
    {"bad_words_ids": [[3], [4, 5], [6, 7, 8], [1]]},
    {"min_length": 9},
    {"min_new_tokens": 3},
    {"forced_bos_token_id": 5},
    {"forced_eos_token_id": 1},
    {"forced_eos_token_id": [1, 2]},
    {"suppress_tokens": [3, 5, 7]},
    {"begin_suppress_tokens": [3, 5]},
    {"do_sample": True, "temperature": 0.3, "top_k": 0},
    {"do_sample": True, "top_k": 5},
    {"do_sample": True, "top_k": 0, "top_p": 0.7},
    {"do_sample": True, "top_k": 0, "min_p": 0.1},
    {"do_sample": True, "top_k": 1, "num_beams": 3},
    {"do_sample": True, "top_k": 0, "top_p": 0.01, "num_beams": 3},
    {"do_sample": True, "top_k": 0, "min_p": 0.9, "num_beams": 3},
    {"renormalize_logits": True, "suppress_tokens": [3]},
    {
        "do_sample": True,
        "temperature": 1.6,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "min_length": 7,
        "renormalize_logits": True,
    },
]


# What was given to read, a row for each of the five texts.
SOURCE = np.random.default_rng(1).integers(3, 9, (5, 9))


def of_transformers(options: dict, prompt: int, length: int):
    config = transformers.GenerationConfig(**options, max_length=length, eos_token_id=[1, 2])
    if config.min_new_tokens is not None:
        config.min_length = config.min_new_tokens + prompt
    config._eos_token_tensor = torch.tensor([1, 2])
    mixin = transformers.GenerationMixin()
    mixin.config = transformers.PretrainedConfig()
    return mixin._get_logits_processor(config, prompt, torch.from_numpy(SOURCE), device="cpu")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_scores_are_those_of_transformers(options):
    generator = np.random.default_rng(0)
    for prompt, length in ((1, 1), (1, 2), (4, 4), (4, 6), (4, 9)):
        if MAJOR < 5 and "bad_words_ids" in options and length < 3:
            continue  # transformers 4 lets a run through that would begin with the sequence's first token
        theirs = of_transformers(options, prompt, 10)
        given = GenerationConfig(**options, eos_token_id=[1, 2]).updated(max_length=10)
        config = given.for_prompt(prompt, max_length_given=True, position_limit=None)
        ours = processors(config, prompt, source=SOURCE)
        assert len(ours) >= 1 or options.get("min_length", 9) == 0
        for _ in range(4):
            # Few different ids, so that they repeat.
            ids = generator.integers(3, 9, (5, length))
            scores = generator.normal(0, 3, (5, VOCABULARY)).astype(np.float32)
            expected = theirs(torch.from_numpy(ids), torch.from_numpy(scores.copy())).numpy()
            before = scores.copy()
            got = scores
            for process in ours:
                got = process(ids, got)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(scores, before)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 4), row=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_no_run_of_tokens_occurs_twice(size, row):
    (process,) = processors(GenerationConfig(no_repeat_ngram_size=size), 1)
    scores = process(np.array([row]), np.zeros((1, 4), np.float32))[0]
    runs = [tuple(row[start : start + size]) for start in range(len(row) - size + 1)]
    for token in range(4):
        banned = len(row) + 1 >= size and tuple([*row, token][-size:]) in runs
        assert np.isneginf(scores[token]) == banned
