"""Fill-mask against transformers' own pipeline on the same weights."""

from __future__ import annotations

import logging

import pytest

from helpers.checkpoints import small_bert
from helpers.comparing import both, same
from untorch import InputError, SequenceTooLongError


@pytest.fixture(scope="module", params=["bert", "roberta"])
def pipelines(request, make_bundle, roberta):
    if request.param == "roberta":
        return both("fill-mask", *roberta("ForMaskedLM"))
    made = make_bundle("masked", lambda folder: small_bert(folder, "BertForMaskedLM"), precisions=["fp32"])
    return both("fill-mask", *made)


@pytest.fixture
def texts(pipelines):
    mask = pipelines[0].tokenizer.mask_token
    return [
        f"hello {mask}, I love it.",
        mask,
        f"{mask}{mask}",
        f"this {mask} is a {mask} movie, not {mask}!",
        f"Ça va {mask}, 世界! 🙂",
        f"  new\nlines {mask}\tand so on ",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"top_k": 1},
        {"top_k": 12},
        {"targets": ["good", "a", "hello"]},
        {"targets": "movie"},
        {"targets": ["a", "good", "good", "it"], "top_k": 2},
        {"targets": ["unheard-of", "good"]},
        {"tokenizer_kwargs": {"add_special_tokens": False}},
        {"tokenizer_kwargs": {"truncation": True}},
    ],
    ids=str,
)
def test_options(pipelines, texts, arguments):
    ours, theirs = pipelines
    same(ours(texts, **arguments), theirs(texts, **arguments))
    same(ours(texts, batch_size=2, **arguments), theirs(texts, **arguments))
    for text in texts:
        same(ours(text, **arguments), theirs(text, **arguments))
        same(ours([text], **arguments), theirs([text], **arguments))


def test_a_stream(pipelines, texts):
    ours, theirs = pipelines
    same(list(ours(text for text in texts)), theirs(texts))
    assert ours([]) == []


def test_a_long_text_is_an_error_or_cut_on_request(pipelines, texts):
    ours, theirs = pipelines
    long = texts[0] + " good" * 200
    with pytest.raises(SequenceTooLongError, match="truncation=True"):
        ours(long)
    same(ours(long, truncation=True), theirs(long, tokenizer_kwargs={"truncation": True}))
    cut = {"tokenizer_kwargs": {"truncation": True, "max_length": 12}}
    same(ours(long, **cut), theirs(long, **cut))


def test_a_target_outside_the_vocabulary_is_said(pipelines, texts, caplog):
    with caplog.at_level(logging.WARNING, logger="untorch"):
        pipelines[0](texts[0], targets=["unheard-of"])
    assert "unheard-of" in caplog.text


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("no mask", {}, "text 0 has no mask"),
        ("", {}, "has no mask"),
        (None, {}, "NoneType"),
        ("{mask}", {"targets": []}, "targets"),
        ("{mask}", {"top_k": 0}, "top_k"),
        ("{mask}", {"colour": 1}, "colour"),
        ("{mask}", {"tokenizer_kwargs": {"colour": 1}}, "colour"),
    ],
)
def test_what_cannot_be_done_is_refused(pipelines, text, arguments, message):
    if text is not None:
        text = text.format(mask=pipelines[0].tokenizer.mask_token)
    with pytest.raises(InputError, match=message):
        pipelines[0](text, **arguments)


def test_batches_stay_small_where_the_vocabulary_is_large(pipelines):
    ours = pipelines[0]
    assert ours.max_batch_tokens * len(ours.tokenizer) <= 1 << 24
