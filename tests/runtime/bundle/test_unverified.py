"""Folders that untorch did not write: the output of torch.onnx and of Optimum, the Hub's layout, a graph alone."""

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


def torch_export(checkpoint, folder):
    """What people write by hand: torch.onnx's graph beside the checkpoint's own files."""
    pytest.importorskip("onnxscript", reason="torch.onnx needs onnxscript")
    for path in checkpoint.iterdir():
        if path.suffix in (".json", ".txt"):
            shutil.copy(path, folder)
    names = ("input_ids", "attention_mask", "token_type_ids")
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=64)}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    torch.onnx.export(
        model,
        kwargs={name: torch.ones(2, 8, dtype=torch.int64) for name in names},
        f=folder / "model.onnx",
        input_names=names,
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(names, axes),
        external_data=False,
        verbose=False,
    )


def optimum_export(checkpoint, folder):
    optimum = pytest.importorskip("optimum.exporters.onnx", reason="Optimum's exporter wants transformers 4.57")
    optimum.main_export(str(checkpoint), folder, task="text-classification", do_validation=False)


@pytest.fixture(scope="module", params=[torch_export, optimum_export])
def folder_of_others(request, tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracers warn of constants that they meet
        request.param(tiny_checkpoint, folder)
    return folder


def agrees(classifier, expected):
    answers = classifier(TEXTS)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    np.testing.assert_allclose([a["score"] for a in answers], [e["score"] for e in expected], atol=1e-4)


def test_a_folder_from_another_exporter(folder_of_others, expected):
    agrees(pipeline("text-classification", folder_of_others), expected)
    bundle = Bundle(folder_of_others)
    assert not bundle.verified
    assert bundle.variants["fp32"].verdict == "unverified"
    bundle.check()  # nothing to compare with, and so nothing to complain of


def test_the_hubs_layout(folder_of_others, expected, tmp_path):
    folder = shutil.copytree(folder_of_others, tmp_path / "hub")
    (folder / "onnx").mkdir()
    shutil.copy(folder / "model.onnx", folder / "onnx/model_quantized.onnx")
    (folder / "model.onnx").rename(folder / "onnx/model.onnx")
    assert list(Bundle(folder).variants) == ["fp32", "quantized"]
    agrees(pipeline("text-classification", folder), expected)
    agrees(pipeline("text-classification", folder, precision="quantized"), expected)


def test_external_data_beside_the_graph(folder_of_others, expected, tmp_path):
    folder = shutil.copytree(folder_of_others, tmp_path / "external")
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx_data")
    assert Bundle(folder).variants["fp32"].graphs["model"].data == ("model.onnx_data",)
    agrees(pipeline("text-classification", folder), expected)


def test_without_a_config_the_caller_names_the_task(folder_of_others, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(folder_of_others, tmp_path / "bare")
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


def test_a_graph_without_hidden_states_says_so(folder_of_others):
    with pytest.raises(TaskError, match="gives logits; AutoModel needs token states"):
        AutoModel.from_pretrained(folder_of_others)
