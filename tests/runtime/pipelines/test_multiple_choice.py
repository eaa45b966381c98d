"""Multiple choice against transformers' own model on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from helpers.checkpoints import small_bert
from untorch import AutoModelForMultipleChoice, AutoTokenizer, InputError, SequenceTooLongError, TaskError, pipeline
from untorch.bundle.folder import Bundle
from untorch.tools.verification import verify

TEXT = "hello people, this movie"
CHOICES = ["is good", "is a city", "", "Ça va très bien, 世界!"]


@pytest.fixture(scope="module", params=["BertForMultipleChoice", "RobertaForMultipleChoice"])
def checkpoint(request, make_bundle, roberta):
    if request.param.startswith("Roberta"):
        return roberta("ForMultipleChoice")
    return make_bundle("choices", lambda folder: small_bert(folder, request.param), precisions=["fp32"])


def inputs(tokenizer, choices, rows, framework):
    """(rows, choices, sequence) arrays."""
    encoded = tokenizer([TEXT] * choices * rows, (CHOICES * rows)[: choices * rows], padding=True, return_tensors="np")
    arrays = {name: array.reshape(rows, choices, -1) for name, array in encoded.items()}
    return {name: torch.tensor(array) for name, array in arrays.items()} if framework == "pt" else arrays


@pytest.mark.parametrize(("rows", "choices"), [(1, 2), (1, 4), (3, 4), (2, 1)])
def test_scores(checkpoint, rows, choices):
    source, bundle = checkpoint
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(source)
    with torch.no_grad():
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        expected = theirs(**inputs(tokenizer, choices, rows, "pt")).logits.numpy()
    ours = AutoModelForMultipleChoice.from_pretrained(bundle, precision="fp32")
    logits = ours(**inputs(AutoTokenizer.from_pretrained(bundle), choices, rows, "np")).logits
    assert logits.shape == (rows, choices)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_the_pipeline(checkpoint):
    source, bundle = checkpoint
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    ours = pipeline(None, bundle, precision="fp32")
    items = [{"text": f"{TEXT} {number}", "choices": CHOICES[: number + 1]} for number in range(4)]
    for item, answer in zip(items, ours(items), strict=True):
        rows = tokenizer([item["text"]] * len(item["choices"]), item["choices"], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = theirs(**{name: value[None] for name, value in rows.items()}).logits
        scores = logits.softmax(-1)[0].numpy()
        order = np.argsort(-scores)
        assert [choice["index"] for choice in answer] == order.tolist()
        assert [choice["text"] for choice in answer] == [item["choices"][index] for index in order]
        np.testing.assert_allclose([choice["score"] for choice in answer], scores[order], atol=1e-4)
        assert ours(item) == answer
    for bad in ("text", {"text": "a"}, {"text": "a", "choices": []}, {"text": "a", "choices": "b"}):
        with pytest.raises(InputError, match="an input to choose for"):
            ours(bad)
    with pytest.raises(InputError, match="colour"):
        ours(items, colour=1)


def test_the_bundle_is_verified_and_says_its_task(checkpoint):
    bundle = Bundle(checkpoint[1])
    assert bundle.task == "multiple-choice"
    assert bundle.variant("fp32").verdict == "exact"
    assert bundle.variant("fp32").graphs["model"].inputs[0].axes == ("batch", "choices", "sequence")
    assert verify(bundle, device="cpu").passed


def test_wrong_shapes_are_refused(checkpoint):
    model = AutoModelForMultipleChoice.from_pretrained(checkpoint[1], precision="fp32")
    with pytest.raises(InputError, match="batch axis is missing"):
        model([[2, 5, 3]])
    with pytest.raises(InputError, match="axes"):
        model([2, 5, 3])
    with pytest.raises(InputError, match="ragged"):
        model([[[2, 5, 3], [2, 3]]])
    with pytest.raises(InputError, match="must be equal"):
        model([[[2, 5, 3], [2, 5, 3]]], attention_mask=[[[1, 1, 1]]])
    with pytest.raises(SequenceTooLongError):
        model(np.ones((1, 2, 400), np.int64))


def test_int8(make_bundle):
    """Attention fuses as in every other head; random weights, so its gate says nothing."""
    _, folder = make_bundle(
        "choices-int8",
        lambda folder: small_bert(folder, "BertForMultipleChoice", max_position_embeddings=128),
        keep_failed=True,
    )
    int8 = Bundle(folder).variant("int8")
    assert int8.extra["fused_layers"] == int8.extra["layers"] == 2
    model = AutoModelForMultipleChoice.from_pretrained(folder, precision="int8")
    assert model(**inputs(AutoTokenizer.from_pretrained(folder), 4, 2, "np")).logits.shape == (2, 4)


def test_other_heads_are_refused(make_bundle, checkpoint):
    _, tiny_bundle = make_bundle("two-labels", small_bert, precisions=["fp32"])
    with pytest.raises(TaskError, match="multiple choice head"):
        AutoModelForMultipleChoice.from_pretrained(tiny_bundle)
    with pytest.raises(TaskError, match="multiple-choice"):
        pipeline("text-classification", checkpoint[1])
