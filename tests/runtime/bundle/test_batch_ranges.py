"""Folders of others whose graphs quantise with activation ranges of the whole batch, made by onnxruntime's tools."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic

import untorch
from helpers.paths import BUNDLE_V1
from untorch import AutoModelForSequenceClassification, AutoTokenizer, Bundle, BundleError, pipeline
from untorch.bundle.inspection import ranges_of_the_batch

TEXTS = ["hello", "I hate this so much! " * 6, "the movie is great", "good good bad people lives in the city", "a"]


@pytest.fixture(scope="session")
def quantised(tmp_path_factory):
    """A graph file: the frozen bundle's fp32 graph, quantised dynamically."""
    path = tmp_path_factory.mktemp("quantised") / "model.onnx"
    shutil.copytree(BUNDLE_V1 / "onnx", path.parent / "source")
    loaded = onnx.load(path.parent / "source/model.onnx")
    quantize_dynamic(loaded, path)
    return path


@pytest.fixture
def folder(tmp_path, quantised):
    """`folder(*names)`: a folder without a manifest that holds the quantised graph under each of these names."""

    def make(*names, fp32=False):
        place = tmp_path / "folder"
        shutil.copytree(BUNDLE_V1, place, ignore=shutil.ignore_patterns("*.onnx*", "untorch.json", "golden.npz"))
        (place / "onnx").mkdir(exist_ok=True)
        for name in names:
            shutil.copy(quantised, place / name)
        if fp32:
            for file in BUNDLE_V1.glob("onnx/model.onnx*"):
                shutil.copy(file, place / "onnx")
        return place

    return make


def vectors(answers):
    return np.array([[one["score"] for one in answer] for answer in answers])


def scores(classify, texts, **arguments):
    return vectors(
        [sorted(answer, key=lambda one: one["label"]) for answer in classify(texts, top_k=None, **arguments)]
    )


def test_such_a_graph_is_told_from_others(quantised):
    assert ranges_of_the_batch(quantised)
    for file in BUNDLE_V1.glob("onnx/*.onnx"):
        assert not ranges_of_the_batch(file)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["onnx/model.onnx"], ["int8_dynamic"]),
        (["model.onnx"], ["int8_dynamic"]),
        (["onnx/model_quantized.onnx"], ["quantized"]),
        (["onnx/model_int8.onnx", "onnx/model_uint8.onnx"], ["int8", "uint8"]),
    ],
)
def test_the_precision_is_called_what_it_is(folder, files, names):
    place = folder(*files)
    assert list(Bundle(place).variants) == names
    for name in [*names, "auto", "int8_dynamic"]:
        assert pipeline("text-classification", place, precision=name, device="cpu").precision == "int8_dynamic"
    with pytest.raises(BundleError, match=f"has no fp32 variant; it has {', '.join(names)}"):
        pipeline("text-classification", place, precision="fp32")


def test_beside_a_graph_in_fp32_that_one_is_taken(folder):
    place = folder("onnx/model_quantized.onnx", fp32=True)
    assert list(Bundle(place).variants) == ["fp32", "quantized"]
    classify = pipeline("text-classification", place, device="cpu")
    assert classify.precision == "fp32"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classify(TEXTS, batch_size=4)


def test_an_answer_does_not_depend_on_its_neighbours(folder):
    classify = pipeline("text-classification", folder("onnx/model.onnx"), device="cpu")
    alone = np.concatenate([scores(classify, [text]) for text in TEXTS])
    np.testing.assert_array_equal(scores(classify, TEXTS), alone)
    np.testing.assert_array_equal(scores(classify, iter(TEXTS)), alone)
    np.testing.assert_array_equal(scores(classify, TEXTS[::-1]), alone[::-1])


def test_batches_are_had_for_the_asking_and_a_warning_says_once_what_they_give_up(folder):
    classify = pipeline("text-classification", folder("onnx/model.onnx"), device="cpu")
    alone = scores(classify, TEXTS)
    with pytest.warns(UserWarning, match="batch_size=5 an answer depends on the texts beside it"):
        together = scores(classify, TEXTS, batch_size=5)
    assert np.abs(together - alone).max() > 1e-5  # else there would be nothing to warn of
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(scores(classify, TEXTS, batch_size=5), together)
        np.testing.assert_array_equal(scores(classify, TEXTS, batch_size=1), alone)


@pytest.mark.parametrize("task", ["feature-extraction", "sentence-embeddings", "text-ranking"])
def test_the_other_tasks_keep_rows_apart_too(folder, task):
    place = folder("onnx/model.onnx")
    if task == "text-ranking":
        items = [{"query": "hello", "passages": TEXTS}]
        model, arguments = "text-ranking", {"label": "POSITIVE"}
        rank = pipeline(model, place, device="cpu", **arguments)
        found = {one["text"]: one["score"] for one in rank(items)[0]}
        for text in TEXTS:
            assert found[text] == rank([{"query": "hello", "passages": [text]}])[0][0]["score"]
        return
    if "last_hidden_state" not in {
        tensor.name for tensor in untorch.AutoModelForSequenceClassification.from_pretrained(place).session.outputs
    }:
        pytest.skip("the frozen graph gives no token states")
    embed = pipeline(task, place, device="cpu")
    for one, text in zip(embed(TEXTS), TEXTS, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(embed(text)))


def test_a_call_of_the_model_keeps_its_rows_apart(folder):
    place = folder("onnx/model.onnx")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    together = model(**tokenizer(TEXTS, padding=True, return_tensors="np")).logits
    for row, text in zip(together, TEXTS, strict=True):
        np.testing.assert_array_equal(row, model(**tokenizer([text], return_tensors="np")).logits[0])


def test_a_graph_that_a_caller_names_is_examined_too(folder, quantised):
    place = folder()
    shutil.copy(quantised, place / "mine.onnx")
    model = AutoModelForSequenceClassification.from_pretrained(place, file_name="mine.onnx")
    assert model.precision == "int8_dynamic"


def test_a_bundle_with_a_manifest_is_called_as_it_says():
    assert list(Bundle(BUNDLE_V1).variants) == list(json.loads((BUNDLE_V1 / "untorch.json").read_text())["variants"])


def test_a_file_that_is_no_graph_is_told_when_it_is_opened(folder):
    place = folder()
    (place / "onnx/model.onnx").write_bytes(b"nothing")
    assert list(Bundle(place).variants) == ["fp32"]
    with pytest.raises(BundleError):
        pipeline("text-classification", place)
