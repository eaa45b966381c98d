"""Greedy and beam search: the same tokens as PyTorch's `generate`, for every family and over batches and options."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from helpers.generators import CAUSAL, SEQ2SEQ
from untorch import InputError, SequenceTooLongError, TaskError
from untorch.model.causal import AutoModelForCausalLM
from untorch.model.seq2seq import AutoModelForSeq2SeqLM

# transformers announces its defaults, and that it will change them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MANY_EOS = list(range(100, 160))
OPTIONS = {
    "defaults": {},
    "greedy": {"max_new_tokens": 24},
    "max_length": {"max_length": 13},
    "penalties": {"max_new_tokens": 16, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "source": {"max_new_tokens": 12, "encoder_repetition_penalty": 1.3, "encoder_no_repeat_ngram_size": 2},
    "several eos": {"max_new_tokens": 24, "eos_token_id": MANY_EOS, "min_new_tokens": 3},
    "forced eos": {"max_new_tokens": 10, "forced_eos_token_id": 7},
    "forbidden": {"max_new_tokens": 10, "bad_words_ids": [[9], [11, 12]], "suppress_tokens": [20]},
    "forced bos": {"max_new_tokens": 6, "forced_bos_token_id": 9, "begin_suppress_tokens": [10]},
    "beams": {"max_new_tokens": 16, "num_beams": 3},
    "beams, all of them": {"max_new_tokens": 12, "num_beams": 4, "num_return_sequences": 4},
    "beams, early": {"max_new_tokens": 20, "num_beams": 3, "early_stopping": True, "eos_token_id": MANY_EOS},
    "beams, never": {"max_new_tokens": 20, "num_beams": 3, "early_stopping": "never", "eos_token_id": MANY_EOS},
    "beams, longer": {"max_new_tokens": 20, "num_beams": 2, "length_penalty": 2.0, "eos_token_id": MANY_EOS},
    "beams, shorter": {"max_new_tokens": 20, "num_beams": 4, "length_penalty": -1.0, "eos_token_id": MANY_EOS},
    "beams, penalties": {"max_new_tokens": 12, "num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
    "beams, source": {"max_new_tokens": 12, "num_beams": 3, "encoder_no_repeat_ngram_size": 2},
}


def prompts(rows: int, length: int, *, left: bool, seed: int = 0):
    """Random ids (rows, length) of ragged rows, padded with 0."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, length + 1, rows)
    lengths[0] = length
    places = np.arange(length)
    mask = places >= length - lengths[:, None] if left else places < lengths[:, None]
    return np.where(mask, generator.integers(5, 260, (rows, length)), 0), mask.astype(np.int64)


def same_tokens(ours, theirs, ids, mask, **options):
    expected = theirs.generate(
        input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **options
    ).numpy()
    got = ours.generate(input_ids=ids, attention_mask=mask, **options)
    np.testing.assert_array_equal(got, expected)
    return got


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_the_tokens_are_pytorchs(models, family, option):
    for rows, length in ((1, 9), (4, 6)):
        ids, mask = prompts(rows, length, left=family in CAUSAL)
        same_tokens(*models(family), ids, mask, **OPTIONS[option])


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_a_row_does_not_depend_on_its_neighbours(models, family):
    ours, _ = models(family)
    ids, mask = prompts(4, 6, left=family in CAUSAL)
    together = ours.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, eos_token_id=None)
    for row in range(4):
        single = ours.generate(input_ids=ids[row : row + 1, mask[row] > 0], max_new_tokens=12, eos_token_id=None)
        np.testing.assert_array_equal(together[row, -12:], single[0, -12:])


@pytest.mark.parametrize("family", CAUSAL)
def test_logits_with_and_without_a_cache(models, family):
    ours, theirs = models(family)
    ids, mask = prompts(3, 8, left=True)
    with torch.inference_mode():
        positions = torch.from_numpy(np.where(mask, mask.cumsum(-1) - 1, 1))
        expected = theirs(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), position_ids=positions
        ).logits.numpy()
    whole = ours(input_ids=ids, attention_mask=mask)
    assert list(whole) == ["logits", "past_key_values"]
    np.testing.assert_allclose(whole.logits[mask > 0], expected[mask > 0], atol=1e-4)
    first = ours(input_ids=ids[:, :5], attention_mask=mask[:, :5])
    assert len(first.past_key_values) == 5
    later = ours(input_ids=ids[:, 5:], attention_mask=mask, past_key_values=first.past_key_values)
    real = mask[:, 5:] > 0
    np.testing.assert_allclose(later.logits[real], expected[:, 5:][real], atol=1e-4)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_logits_of_an_encoder_decoder(models, family):
    ours, theirs = models(family)
    ids, mask = prompts(3, 8, left=False)
    first, _ = prompts(3, 1, left=False, seed=1)
    with torch.inference_mode():
        expected = theirs(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            decoder_input_ids=torch.from_numpy(first),
        )
    outputs = ours(input_ids=ids, attention_mask=mask, decoder_input_ids=first)
    np.testing.assert_allclose(outputs.logits, expected.logits.numpy(), atol=1e-4)
    states = expected.encoder_last_hidden_state.numpy()
    np.testing.assert_allclose(outputs.encoder_last_hidden_state[mask > 0], states[mask > 0], atol=1e-4)


def test_decoder_input_ids(models):
    ours, theirs = models("T5")
    ids, mask = prompts(2, 6, left=False)
    for start in ([[0, 9], [0, 11]], [[9, 8], [7, 5]]):
        same_tokens_from = theirs.generate(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            decoder_input_ids=torch.tensor(start),
            max_new_tokens=8,
        )
        got = ours.generate(input_ids=ids, attention_mask=mask, decoder_input_ids=start, max_new_tokens=8)
        np.testing.assert_array_equal(got, same_tokens_from.numpy())


def test_padding_is_seen_without_a_mask(models):
    ours, theirs = models("Llama")
    ids, _ = prompts(3, 6, left=True)
    np.testing.assert_array_equal(
        ours.generate(ids, max_new_tokens=8), theirs.generate(torch.from_numpy(ids), max_new_tokens=8).numpy()
    )


def test_without_a_prompt_it_begins_with_bos(models):
    ours, theirs = models("GPT2")
    np.testing.assert_array_equal(ours.generate(max_new_tokens=5), theirs.generate(max_new_tokens=5).numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "blue"}, "no argument 'colour'"),
        ({"num_beam_groups": 2}, "num_beam_groups=2 is not supported"),
        ({"max_length": 4}, "6 tokens and max_length is 4"),
        ({"num_return_sequences": 2}, "greedy decoding gives one sequence"),
        ({"num_beams": 2, "num_return_sequences": 3}, "more than num_beams=2"),
        ({"do_sample": True, "temperature": 0.0}, "temperature"),
        ({"stop_strings": "x"}, "tokenizer"),
    ],
)
def test_bad_settings_are_refused(models, options, message):
    ids, mask = prompts(2, 6, left=True)
    with pytest.raises(InputError, match=message):
        models("Llama")[0].generate(input_ids=ids, attention_mask=mask, **options)


def test_padding_on_the_right_is_refused(models):
    ids, mask = prompts(2, 6, left=False)
    with pytest.raises(InputError, match="padding_side='left'"):
        models("Llama")[0].generate(input_ids=ids, attention_mask=mask)


def test_running_out_of_positions(models):
    ours, _ = models("GPT2")
    ids, mask = prompts(1, 126, left=True)
    with pytest.raises(SequenceTooLongError, match="129 tokens and the model takes at most 128"):
        ours.generate(input_ids=ids, attention_mask=mask, max_new_tokens=10, eos_token_id=None)
    assert ours.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, eos_token_id=None).shape == (1, 129)


@pytest.mark.parametrize("family", ["Llama", "T5"])
def test_a_folder_without_a_manifest_generates_too(models, family, tmp_path):
    ours, _ = models(family)
    shutil.copytree(ours.bundle.path, tmp_path / "optimum", ignore=shutil.ignore_patterns("untorch.json", "golden.npz"))
    loose = type(ours).from_pretrained(tmp_path / "optimum")
    ids, mask = prompts(2, 6, left=family in CAUSAL)
    for options in ({"max_new_tokens": 8}, {"max_new_tokens": 8, "num_beams": 2}):
        np.testing.assert_array_equal(
            loose.generate(input_ids=ids, attention_mask=mask, **options),
            ours.generate(input_ids=ids, attention_mask=mask, **options),
        )


def test_bundles_of_other_tasks_are_refused(models, tiny_bundle):
    with pytest.raises(TaskError, match="AutoModelForCausalLM"):
        AutoModelForCausalLM.from_pretrained(tiny_bundle)
    with pytest.raises(TaskError, match="AutoModelForSeq2SeqLM"):
        AutoModelForSeq2SeqLM.from_pretrained(models("GPT2")[0].bundle.path)
    with pytest.raises(TaskError, match=r"no model graph|needs a language model head"):
        AutoModelForCausalLM.from_pretrained(models("T5")[0].bundle.path)
