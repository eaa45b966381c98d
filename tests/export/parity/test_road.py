"""From text to answer: a bundle that does not answer as the library does is not written."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from helpers import dropped
from helpers.checkpoints import small_bert
from helpers.comparing import same
from helpers.generators import generator
from untorch import pipeline
from untorch.bundle.folder import Bundle
from untorch_export.checkpoint.load import load
from untorch_export.errors import ExportError, GateError
from untorch_export.export import export
from untorch_export.parity import libraries, road
from untorch_export.parity.texts import ROAD_TEXTS
from untorch_export.trace import transformers_5

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def checkpoint(tmp_path):
    return small_bert(tmp_path / "checkpoint")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_manifest_says_what_exact_means(checkpoint, tmp_path):
    fp32 = export(checkpoint, tmp_path / "bundle", precisions=["fp32"]).variants["fp32"]
    assert fp32.verdict == "exact"
    found = fp32.parity["road"]
    assert found["library"] == "transformers' text-classification pipeline"
    assert found["same"] == found["texts"] == len(ROAD_TEXTS) + 3  # two pairs, and one over the limit
    meaning = fp32.parity["meaning"]
    for word in ("loaded afresh", "0.0001", "the worst is", f"{found['same']} of {found['texts']} texts", "random ids"):
        assert word in meaning
    assert Bundle(tmp_path / "bundle").variant("fp32").parity["meaning"] == meaning


def test_other_answers_than_the_librarys_are_not_written(checkpoint, tmp_path, monkeypatch):
    """As a setting would do that the library reads and untorch does not."""
    call_of = libraries.call_of

    def other(checkpoint):
        call = call_of(checkpoint)
        first = call.inputs[0]
        return libraries.Call(
            call.library, lambda item: call.theirs(item if item != first else "I love it"), call.inputs, call.ours
        )

    monkeypatch.setattr(road, "call_of", other)
    with pytest.raises(GateError, match=r"answers \d+ of \d+ texts as transformers' text-classification pipeline does"):
        export(checkpoint, tmp_path / "bundle", precisions=["fp32"])
    assert not (tmp_path / "bundle").exists()
    kept = export(checkpoint, tmp_path / "kept", precisions=["fp32"], keep_failed=True).variants["fp32"]
    assert kept.verdict == "failed"
    assert kept.parity["gate"]["measured"] == kept.parity["gate"]["limit"] - 1


def test_a_bundle_that_cannot_be_opened_is_not_written(tmp_path):
    source = generator(tmp_path / "checkpoint", "Bart")
    edit(source / "generation_config.json", exponential_decay_length_penalty=[3, 1.1])
    with pytest.raises(ExportError, match="exponential_decay_length_penalty"):
        export(source, tmp_path / "bundle", precisions=["fp32"])
    assert not (tmp_path / "bundle").exists()


def test_what_the_config_says_of_the_source_text_is_followed(tmp_path):
    source = generator(tmp_path / "checkpoint", "Bart")
    edit(source / "generation_config.json", encoder_no_repeat_ngram_size=1)
    export(source, tmp_path / "bundle", precisions=["fp32"])
    texts = ["hello people", "this movie is great"]
    ours = pipeline(None, tmp_path / "bundle")(texts, max_new_tokens=6, do_sample=False)
    theirs = dropped.writer("text2text-generation", source)
    same(ours, theirs(texts, max_new_tokens=6, do_sample=False))


@pytest.mark.parametrize(
    "head",
    [
        "BertForSequenceClassification",
        pytest.param(
            "BertForQuestionAnswering",
            marks=pytest.mark.skipif(transformers_5(), reason="transformers 5 has no question-answering pipeline"),
        ),
    ],
)
def test_types_of_tokens_that_the_tokenizer_does_not_ask_for_are_not_fed(tmp_path, head):
    source = small_bert(tmp_path / "checkpoint", head=head)
    edit(source / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    fp32 = export(source, tmp_path / "bundle", precisions=["fp32"]).variants["fp32"]
    assert fp32.parity["road"]["same"] == fp32.parity["road"]["texts"] > 5


def test_texts_reach_the_limit_and_pass_it(checkpoint):
    loaded = load(checkpoint)
    lengths = [len(loaded.tokenizer(text)["input_ids"]) for text in libraries.texts_of(loaded)]
    assert max(lengths) > loaded.limit
    assert min(lengths) == 2  # the empty text, between its marks
    assert any(text.isupper() for text in libraries.texts_of(loaded))
    assert sum(not text.isascii() for text in libraries.texts_of(loaded)) >= 3


def test_what_the_library_cannot_answer_is_nothing_to_be_held_to(checkpoint, tmp_path, monkeypatch):
    call_of = libraries.call_of

    def refusing(checkpoint):
        call = call_of(checkpoint)

        def theirs(item):
            if item == call.inputs[0]:
                raise IndexError("out of range")
            return call.theirs(item)

        return libraries.Call(call.library, theirs, call.inputs, call.ours)

    monkeypatch.setattr(road, "call_of", refusing)
    found = export(checkpoint, tmp_path / "bundle", precisions=["fp32"]).variants["fp32"].parity["road"]
    assert found["same"] == found["texts"] == len(ROAD_TEXTS) + 2


def twinned(folder):
    """A checkpoint that scores every two neighbouring tokens alike, so that each next token is a tie."""
    source = generator(folder, "Llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        rows = model.lm_head.weight
        rows[1::2] = rows[0::2]
    model.save_pretrained(source)
    return source


@pytest.mark.parametrize("make", [lambda folder: generator(folder, "Llama"), twinned], ids=["one best", "ties"])
def test_only_a_tie_between_next_tokens_excuses_another_text(make, tmp_path, monkeypatch):
    call_of = libraries.call_of

    def other(checkpoint):
        call = call_of(checkpoint)

        def theirs(item):
            return call.theirs("I love it" if item == call.inputs[0] else item)

        return replace(call, theirs=theirs)

    source = make(tmp_path / "checkpoint")
    monkeypatch.setattr(road, "call_of", other)
    if make is twinned:
        found = export(source, tmp_path / "bundle", precisions=["fp32"]).variants["fp32"].parity["road"]
        assert found["same"] == found["texts"] > 5
    else:
        with pytest.raises(GateError, match="as transformers' text-generation pipeline does"):
            export(source, tmp_path / "bundle", precisions=["fp32"])


answers = st.recursive(
    st.floats(-10, 10) | st.text(max_size=5) | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(answers)
def test_an_answer_is_like_itself(answer):
    assert road.alike(answer, answer)
    assert not road.alike(answer, [answer])


@given(st.floats(-1000, 1000), st.floats(0.001, 10))
def test_a_number_that_is_off_is_another_answer(value, away):
    assert not road.alike([value], [value + away * (1 + abs(value))])
    assert road.alike([value], [value + 0.9e-4 * (1 + abs(value))])
    assert not road.alike([value], [math.nan])


def test_only_records_of_equal_score_may_change_places():
    first, second, third = ({"label": name, "score": score} for name, score in (("a", 0.5), ("b", 0.5), ("c", 0.1)))
    assert road.alike([first, second, third], [second, first, third])
    assert not road.alike([first, second, third], [first, third, second])
    assert not road.alike([first], [{"label": "b", "score": 0.6}])
    assert not road.alike(np.zeros(3), np.zeros(4))
