"""Folders that untorch did not write: optimum's output, the Hub's layout, a graph alone."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import onnx
import pytest
import torch
import transformers

from untorch import AutoModel, AutoModelForSequenceClassification, Bundle, TaskError, pipeline

TEXTS = ["hello world", "I hate this so much!"]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint):
    return transformers.pipeline("text-classification", str(tiny_checkpoint), device="cpu")(TEXTS)


@pytest.fixture(scope="module")
def optimum_folder(tiny_checkpoint, tmp_path_factory):
    from optimum.exporters.onnx import main_export

    folder = tmp_path_factory.mktemp("optimum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's tracer warns of every constant it meets
        main_export(str(tiny_checkpoint), folder, task="text-classification", do_validation=False)
    return folder


def agrees(classifier, expected):
    answers = classifier(TEXTS)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    np.testing.assert_allclose([a["score"] for a in answers], [e["score"] for e in expected], atol=1e-4)


def test_a_folder_from_optimum(optimum_folder, expected):
    agrees(pipeline("text-classification", optimum_folder), expected)
    bundle = Bundle(optimum_folder)
    assert not bundle.verified
    assert bundle.variants["fp32"].verdict == "unverified"
    bundle.check()  # nothing to compare with, and so nothing to complain of


def test_the_hubs_layout(optimum_folder, expected, tmp_path):
    folder = shutil.copytree(optimum_folder, tmp_path / "hub")
    (folder / "onnx").mkdir()
    shutil.copy(folder / "model.onnx", folder / "onnx/model_quantized.onnx")
    (folder / "model.onnx").rename(folder / "onnx/model.onnx")
    assert list(Bundle(folder).variants) == ["fp32", "quantized"]
    agrees(pipeline("text-classification", folder), expected)
    agrees(pipeline("text-classification", folder, precision="quantized"), expected)


def test_external_data_beside_the_graph(optimum_folder, expected, tmp_path):
    folder = shutil.copytree(optimum_folder, tmp_path / "external")
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    assert Bundle(folder).variants["fp32"].graphs["model"].data == ("model.onnx_data",)
    agrees(pipeline("text-classification", folder), expected)


def test_without_a_config_the_caller_names_the_task(optimum_folder, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(optimum_folder, tmp_path / "bare")
    (folder / "config.json").unlink()
    with pytest.raises(TaskError, match="names its task"):
        pipeline(None, folder)
    answers = pipeline("text-classification", folder)(TEXTS)
    assert {answer["label"] for answer in answers} <= {"LABEL_0", "LABEL_1"}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        logits = model(torch.tensor([[2, 10, 3]])).logits.numpy()
    ours = AutoModelForSequenceClassification.from_pretrained(folder)([[2, 10, 3]]).logits
    np.testing.assert_allclose(ours, logits, atol=1e-4)


def test_a_graph_without_hidden_states_says_so(optimum_folder):
    with pytest.raises(TaskError, match="gives logits; AutoModel needs token states"):
        AutoModel.from_pretrained(optimum_folder)
