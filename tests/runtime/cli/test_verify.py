from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from untorch.bundle.folder import digest
from untorch.cli import main


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def test_a_good_bundle(tiny_bundle, capsys):
    assert main(["verify", str(tiny_bundle)]) == 0
    printed = capsys.readouterr().out
    assert "fp32         holds" in printed
    assert printed.endswith("verified\n")


def test_as_json(tiny_bundle, capsys):
    assert main(["verify", str(tiny_bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    fp32 = next(replay for replay in report["replays"] if replay["precision"] == "fp32")
    assert 0 <= fp32["difference"] <= 1e-4


def test_an_altered_file_is_named(copy, capsys):
    content = bytearray((copy / "golden.npz").read_bytes())
    content[100] ^= 1
    (copy / "golden.npz").write_bytes(content)
    assert main(["verify", str(copy)]) == 1
    assert "golden.npz was altered" in capsys.readouterr().err
    assert main(["verify", str(copy), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_model_that_gives_other_answers_does_not_verify(copy, capsys, value):
    """Weights changed and every digest rewritten to match: only the stored reference can tell."""
    path = copy / "onnx/model.onnx"
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("classifier.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(value), weight.name))
    (copy / "onnx/model.onnx_data").unlink()
    onnx.save(model, path, save_as_external_data=True, location="model.onnx_data")
    manifest = json.loads((copy / "untorch.json").read_text())
    for name in ("onnx/model.onnx", "onnx/model.onnx_data"):
        manifest["files"][name] = {"size": (copy / name).stat().st_size, "sha256": digest(copy / name)}
    (copy / "untorch.json").write_text(json.dumps(manifest))
    assert main(["verify", str(copy)]) == 1
    printed = capsys.readouterr().out
    assert "fp32         differs" in printed
    assert "logits" in printed
    assert printed.endswith("NOT verified\n")


def test_without_a_manifest_there_is_nothing_to_verify(copy, capsys):
    (copy / "untorch.json").unlink()
    assert main(["verify", str(copy)]) == 2
    assert "no manifest" in capsys.readouterr().err
