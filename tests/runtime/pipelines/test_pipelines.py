"""Every pipeline against transformers' own pipeline on the same weights."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.pipelines.text_classification import ClassificationFunction

from helpers.checkpoints import small_bert
from untorch import AutoModelForSequenceClassification, InputError, SequenceTooLongError, TaskError, pipeline

TEXTS = [
    "I've been waiting for a HuggingFace course my whole life.",
    "I hate this so much!",
    "",
    "a",
    "   ",
    "Ça va très bien, 世界! 🙂 مرحبا",
    "great " * 50,
    "\u0000 control \x07 characters\n\tand new lines",
]


THEIR_NAMES = signature(transformers.TextClassificationPipeline._sanitize_parameters).parameters


def same(ours, theirs, tolerance=1e-4):
    """Equal structure, labels and order; numbers to `tolerance`."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key], tolerance)
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, tolerance)
    elif isinstance(theirs, float):
        assert isinstance(ours, float)
        assert ours == pytest.approx(theirs, abs=tolerance)
    else:
        assert ours == theirs


@pytest.fixture(scope="module", params=["two labels", "regression", "one label", "multi-label"])
def classifiers(request, make_bundle):
    """(ours, transformers') for each kind of classification head."""
    config = {
        "two labels": {},
        "regression": {
            "num_labels": 1,
            "problem_type": "regression",
            "id2label": {0: "SCORE"},
            "label2id": {"SCORE": 0},
        },
        "one label": {"id2label": {0: "RELEVANT"}, "label2id": {"RELEVANT": 0}},
        "multi-label": {
            "problem_type": "multi_label_classification",
            "id2label": dict(enumerate("abc")),
            "label2id": {"a": 0, "b": 1, "c": 2},
        },
    }[request.param]
    name = request.param.replace(" ", "-")
    source, bundle = make_bundle(name, lambda folder: small_bert(folder, **config), precisions=["fp32"])
    theirs = transformers.pipeline("text-classification", str(source), device="cpu")
    return pipeline("text-classification", bundle, precision="fp32"), theirs


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"top_k": 1},
        {"top_k": 2},
        {"top_k": None},
        {"function_to_apply": "none"},
        {"function_to_apply": "sigmoid", "top_k": None},
        {"function_to_apply": "softmax", "top_k": 5},
        {"function_to_apply": ClassificationFunction.SIGMOID},
        {"return_all_scores": True},
        {"return_all_scores": False},
        {"return_all_scores": True, "top_k": 1},
        {"max_length": 6},
        {"padding": "max_length", "max_length": 12, "truncation": True},
        {"padding": True, "pad_to_multiple_of": 8, "verbose": False},
    ],
)
@pytest.mark.filterwarnings("ignore:.return_all_scores. is now deprecated:UserWarning")
def test_classification_options(classifiers, arguments):
    ours, theirs = classifiers
    for texts in (TEXTS, *TEXTS):
        same(ours(texts, **arguments), asked(theirs, texts, **arguments))


def asked(theirs, texts, **arguments):
    """What transformers answers. 5 says `top_k=None` for `return_all_scores`, whose order was the labels'."""
    if "return_all_scores" not in arguments or "return_all_scores" in THEIR_NAMES:
        return theirs(texts, **arguments)
    if not arguments.pop("return_all_scores") or "top_k" in arguments:
        return theirs(texts, **arguments)
    labels = list(theirs.model.config.id2label.values())
    answer = theirs(texts, top_k=None, **arguments)
    for row in [answer] if isinstance(texts, str) else answer:
        row.sort(key=lambda item: labels.index(item["label"]))
    return [answer] if isinstance(texts, str) else answer


def test_defaults_of_the_constructor(classifiers):
    ours, theirs = classifiers
    built = pipeline("text-classification", ours.model, ours.tokenizer, top_k=None)
    reference = transformers.pipeline(
        "text-classification", theirs.model, tokenizer=theirs.tokenizer, device="cpu", top_k=None
    )
    same(built(TEXTS), reference(TEXTS))
    same(built(TEXTS[0]), reference(TEXTS[0]))


def test_pairs_in_every_spelling(classifiers):
    ours, theirs = classifiers
    pair = {"text": "hello world", "text_pair": "this is great"}
    same(ours(pair), theirs(pair))
    same(ours([pair, pair], top_k=None), theirs([pair, pair], top_k=None))
    old = [[["hello world", "this is great"]]]
    same(ours(old), theirs(old))


@pytest.mark.parametrize("strategy", [True, "longest_first", "only_first", "only_second"])
def test_a_pair_is_cut_where_the_strategy_says(classifiers, strategy):
    ours, theirs = classifiers
    pair = {"text": "hello world " * 9, "text_pair": "this is great " * 9}
    arguments = {"truncation": strategy, "max_length": 40}
    same(ours([pair], **arguments), theirs([pair], **arguments))


def test_pairs_and_single_texts_in_one_list(classifiers):
    ours, theirs = classifiers
    items = [{"text": "hello", "text_pair": "world"}, {"text": "hello"}, {"text": "a", "text_pair": ""}]
    same(ours(items), theirs(items))


def test_a_generator_gives_a_generator(classifiers):
    ours, theirs = classifiers
    assert list(ours([])) == []
    streamed = ours(text for text in TEXTS * 200)
    same(next(streamed), theirs(TEXTS[0])[0])
    same(list(streamed)[-1], theirs([TEXTS[-1]])[0])


def test_truncation(classifiers):
    ours, theirs = classifiers
    long = "hello " * 500
    with pytest.raises(SequenceTooLongError, match=r"502 tokens .* at most 64.*truncation=True"):
        ours(long)
    same(ours([long, "a"], truncation=True), theirs([long, "a"], truncation=True))
    same(ours(long, truncation=True, max_length=10), theirs(long, truncation=True, max_length=10))
    same(ours("hello", add_special_tokens=False), theirs("hello", add_special_tokens=False))


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=40), max_size=12), batch_size=st.none() | st.integers(1, 5))
def test_order_and_number_of_answers_for_any_texts(tiny_bundle, texts, batch_size):
    classifier = _cached(tiny_bundle)
    try:
        together = classifier(texts, batch_size=batch_size)
    except InputError as error:
        assert "surrogate" in str(error)
        return
    # A row's answer does not depend on its neighbours in the batch.
    same(together, [classifier([text])[0] for text in texts], tolerance=1e-5)


_classifiers = {}


def _cached(bundle):
    if bundle not in _classifiers:
        _classifiers[bundle] = pipeline(None, bundle, precision="fp32")
    return _classifiers[bundle]


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["nested"], {"txt": "x"}, 1.5])
def test_what_is_not_text_is_refused(tiny_bundle, bad):
    with pytest.raises(InputError):
        _cached(tiny_bundle)([bad])


def test_a_lone_surrogate_is_refused_with_its_place(tiny_bundle):
    with pytest.raises(InputError, match="character 1"):
        _cached(tiny_bundle)("a\ud800")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 0}, "top_k"),
        ({"function_to_apply": "relu"}, "function_to_apply"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_bad_arguments_are_refused(tiny_bundle, arguments, message):
    with pytest.raises(InputError, match=message):
        _cached(tiny_bundle)("hello", **arguments)


def test_token_states(tiny):
    source, bundle = tiny
    theirs = transformers.pipeline("feature-extraction", str(source), device="cpu")
    ours = pipeline("feature-extraction", bundle, precision="fp32")
    texts = TEXTS[:4]
    same(ours(texts), theirs(texts))
    same(ours(texts[0]), theirs(texts[0]))
    same(ours("hello " * 500, truncation=True), theirs("hello " * 500, truncation=True))
    arguments = {"tokenize_kwargs": {"truncation": True, "max_length": 5}}
    same(ours(texts[0], **arguments), theirs(texts[0], **arguments))
    for more in (
        {"max_length": 3},
        {"padding": "max_length", "max_length": 10, "truncation": True},
        {"padding": "max_length", "max_length": 10},
        {"padding": True, "pad_to_multiple_of": 8, "padding_side": "left"},
        {"add_special_tokens": False},
    ):
        same(ours(texts[:2], tokenize_kwargs=dict(more)), theirs(texts[:2], tokenize_kwargs=dict(more)))
    for name in ("stride", "return_length", "split_special_tokens"):
        with pytest.raises(InputError, match=f"tokenize_kwargs takes no {name}"):
            ours("hello", tokenize_kwargs={name: 7})
    np.testing.assert_allclose(
        ours(texts[0], return_tensors=True), theirs(texts[0], return_tensors=True).numpy(), atol=1e-4
    )


def test_unknown_tasks_and_tasks_without_a_head(make_bundle):
    with pytest.raises(TaskError, match=r"unknown task 'image-classification'.*sentiment-analysis"):
        pipeline("image-classification")
    with pytest.raises(TaskError, match="name a task"):
        pipeline()
    _, bundle = make_bundle("states", lambda folder: small_bert(folder, "BertModel"), precisions=["fp32"])
    with pytest.raises(TaskError, match="needs a classification head"):
        pipeline("text-classification", bundle)
    assert pipeline(None, bundle).task == "feature-extraction"


def test_a_loaded_model_and_tokenizer_can_be_passed(tiny_bundle):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bundle, precision="fp32")
    same(pipeline("sentiment-analysis", model)("hello"), _cached(tiny_bundle)("hello"))


def test_device_numbers_mean_what_they_mean_in_transformers(tiny_bundle):
    assert pipeline(None, tiny_bundle, device=-1).device == "cpu"
