"""Zero-shot classification against transformers' own pipeline on the same weights."""

from __future__ import annotations

import pytest

from helpers.checkpoints import small_bert
from helpers.comparing import TEXTS, both, same
from helpers.tokenizers import MAJOR
from untorch import InputError, SequenceTooLongError, TaskError, pipeline
from untorch_export.errors import ExportError

LABELS = ["good", "bad movie", "世界", "city"]


@pytest.fixture(scope="module", params=[("contradiction", "neutral", "entailment"), ("ENTAILMENT", "not")], ids=str)
def pipelines(request, make_bundle):
    names = {"id2label": dict(enumerate(request.param)), "label2id": {n: i for i, n in enumerate(request.param)}}
    made = make_bundle(
        f"nli-{len(request.param)}",
        lambda folder: small_bert(folder, **names),
        precisions=["fp32"],
        task="zero-shot-classification",
    )
    return both("zero-shot-classification", *made)


@pytest.mark.parametrize(
    "arguments",
    [
        {"candidate_labels": LABELS},
        {"candidate_labels": LABELS, "multi_label": True},
        {"candidate_labels": "good, bad movie,,city"},
        {"candidate_labels": "good"},
        {"candidate_labels": ["good"]},
        {"candidate_labels": LABELS, "hypothesis_template": "I love {}!"},
        {"candidate_labels": LABELS, "multi_class": True},
    ],
    ids=str,
)
def test_options(pipelines, arguments):
    ours, theirs = pipelines
    texts = [text for text in TEXTS if text]
    expected = arguments
    if "multi_class" in arguments and MAJOR >= 5:  # which has its newer name alone
        expected = {**arguments, "multi_label": arguments["multi_class"]}
        del expected["multi_class"]
    same(ours(texts, **arguments), theirs(texts, **expected))
    same(ours(texts, batch_size=3, **arguments), theirs(texts, **expected))
    same(ours(texts[0], **arguments), theirs(texts[0], **expected))
    same(ours(texts[:1], **arguments), theirs(texts[:1], **expected))


def test_labels_without_their_name_and_from_the_constructor(pipelines):
    ours, theirs = pipelines
    same(ours(TEXTS[0], LABELS), theirs(TEXTS[0], LABELS))
    built = pipeline("zero-shot-classification", ours.model, ours.tokenizer, candidate_labels=LABELS)
    same(built(TEXTS[0]), theirs(TEXTS[0], LABELS))


def test_the_texts_by_transformers_own_name(pipelines):
    ours, theirs = pipelines
    same(ours(sequences=TEXTS[0], candidate_labels=LABELS), theirs(sequences=TEXTS[0], candidate_labels=LABELS))


def test_inputs_with_labels_of_their_own(pipelines):
    ours, theirs = pipelines
    items = [{"text": TEXTS[0], "candidate_labels": "good, city"}, TEXTS[1]]
    same(ours(items, candidate_labels=LABELS), [theirs(TEXTS[0], ["good", "city"]), theirs(TEXTS[1], LABELS)])


def test_a_long_text_is_an_error_or_cut_before_its_hypothesis(pipelines):
    ours, theirs = pipelines
    long = "I love this city so much! " * 40
    with pytest.raises(SequenceTooLongError, match="truncation=True"):
        ours(long, LABELS)
    same(ours([long, "a"], LABELS, truncation=True), theirs([long, "a"], LABELS))


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {"candidate_labels": LABELS}, "not empty"),
        (None, {"candidate_labels": LABELS}, "not empty"),
        ("a", {}, "candidate_labels"),
        ("a", {"candidate_labels": []}, "candidate_labels"),
        ("a", {"candidate_labels": " , "}, "candidate_labels"),
        ("a", {"candidate_labels": LABELS, "hypothesis_template": "no place"}, "hypothesis_template"),
        ("a", {"candidate_labels": LABELS, "colour": 1}, "colour"),
        ({"text": "a", "labels": LABELS}, {}, "candidate_labels"),
    ],
)
def test_what_cannot_be_done_is_refused(pipelines, text, arguments, message):
    with pytest.raises(InputError, match=message):
        pipelines[0](text, **arguments)


def test_a_model_without_entailment_is_refused(make_bundle):
    checkpoint, bundle = make_bundle("not-nli", small_bert, precisions=["fp32"])
    with pytest.raises(TaskError, match="no label of entailment among NEGATIVE, POSITIVE"):
        pipeline("zero-shot-classification", bundle)
    with pytest.raises(ExportError, match=r"could not be opened, so nothing was written: .*no label of entailment"):
        make_bundle("no-entailment", checkpoint, precisions=["fp32"], task="zero-shot-classification")
