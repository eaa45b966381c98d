"""The bundle that an export writes: its graphs, its manifest, and that the same inputs give the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import transformers

from helpers.families import FAMILIES, LAYERS, family
from untorch.bundle.folder import Bundle, read_json
from untorch.ort import kernels
from untorch.ort.session import Session
from untorch.tools.verification import verify
from untorch_export.errors import ExportError
from untorch_export.export import export

HEADS = {
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "Model": ("feature-extraction", "AutoModel"),
    "ForTokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "ForQuestionAnswering": ("question-answering", "AutoModelForQuestionAnswering"),
    "ForMaskedLM": ("fill-mask", "AutoModelForMaskedLM"),
}


SHORT = {"max_position_embeddings": 40, "vocab_size": 90}


def feeds(session, ids, mask):
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {tensor.name: known[tensor.name] for tensor in session.inputs}


def ragged(rows, length, pad, seed=5):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, length + 1, rows)
    lengths[-1] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return np.where(mask, generator.integers(5, 60, (rows, length)), pad), mask


def test_older_readers_can_read_model_onnx_and_the_manifest_says_so(tiny_bundle):
    """ONNX Runtime 1.20 reads the standard up to opset 21 and format version 10. int8 is fused all the same."""
    bundle = Bundle(tiny_bundle)
    for variant in bundle.variants.values():
        model = onnx.load(bundle.file(variant.graphs["model"].file), load_external_data=False)
        opset = next(item.version for item in model.opset_import if not item.domain)
        assert variant.extra["opset"] == opset
        if variant.precision == "fp32":
            assert opset <= 21
            assert model.ir_version <= 10
            assert not {node.op_type for node in model.graph.node} & {"Attention", "RotaryEmbedding"}
    assert bundle.variant("int8").extra["fused_layers"] == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_fuses_and_int8_passes_its_gate(exported, name):
    bundle = Bundle(exported(name)[1])
    verdicts = {"fp32": "exact", "int8": "close"} | ({"int8_kernels": "close"} if kernels.usable() else {})
    assert {key: variant.verdict for key, variant in bundle.variants.items()} == verdicts
    int8 = bundle.variant("int8")
    assert int8.graphs["model"].optimized
    assert int8.extra["layers"] == int8.extra["fused_layers"] == LAYERS
    assert "refused" not in bundle.manifest.extra


@pytest.mark.parametrize("name", FAMILIES)
def test_fp32_is_a_standard_graph_with_named_axes_and_outside_weights(exported, name):
    folder = exported(name)[1]
    path = folder / "onnx/model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    graph = Bundle(folder).variant("fp32").graphs["model"]
    assert graph.data == ("onnx/model.onnx_data",)
    assert path.stat().st_size < (folder / "onnx/model.onnx_data").stat().st_size
    for tensor in graph.inputs:
        assert tensor.axes == ("batch", "sequence")
        assert tensor.dtype == "int64"
    assert {tensor.name: tensor.axes for tensor in graph.outputs} == {
        "logits": ("batch", 2),
        "last_hidden_state": ("batch", "sequence", 32),
    }
    assert str(folder.parent).encode() not in path.read_bytes()


@pytest.mark.parametrize("name", FAMILIES)
def test_head_and_hidden_states_are_pytorchs(exported, name):
    checkpoint, folder = exported(name)
    session = Session(folder / "onnx/model.onnx", device="cpu")
    ids, mask = ragged(5, 29, pad=read_json(folder / "config.json")["pad_token_id"])
    logits, hidden = session.run(feeds(session, ids, mask), ["logits", "last_hidden_state"])
    tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        head = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint)(**tensors)
        bare = transformers.AutoModel.from_pretrained(checkpoint)(**tensors)
    np.testing.assert_allclose(logits, head.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(hidden, bare.last_hidden_state.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_every_task_exports_under_its_name_with_its_outputs(exported, head):
    task, auto = HEADS[head]
    checkpoint, folder = exported("Bert", head)
    bundle = Bundle(folder)
    assert bundle.task == task
    assert bundle.variant("fp32").verdict == "exact"
    session = Session(folder / "onnx/model.onnx", device="cpu")
    ids, mask = ragged(3, 11, pad=0)
    got = dict(zip([item.name for item in session.outputs], session.run(feeds(session, ids, mask)), strict=True))
    with torch.no_grad():
        model = getattr(transformers, auto).from_pretrained(checkpoint)
        expected = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    for name in got.keys() & expected.keys():
        np.testing.assert_allclose(got[name], expected[name].numpy(), atol=1e-4, rtol=1e-4)
    assert got.keys() == ({"last_hidden_state"} | expected.keys()) - {"pooler_output"}


def test_the_runtime_verifies_what_was_written(exported):
    report = verify(Bundle(exported("Roberta")[1]), device="cpu")
    assert report.passed
    assert {replay.cases for replay in report.replays} == {6}


def test_manifest_says_what_it_came_from_and_where_it_was_worst(exported):
    checkpoint, folder = exported("Bert")
    manifest = Bundle(folder).manifest
    assert manifest.source["name"] == checkpoint.name
    assert manifest.source["weights"].keys() == {"model.safetensors"}
    assert manifest.tools["torch"] == torch.__version__
    assert manifest.created
    report = manifest.variants["fp32"].parity
    worst = report["outputs"]["logits"]["worst"]
    assert worst["output"] == "logits"
    assert len(worst["index"]) == 2
    assert {"batch 1", "batch 32", "neighbours"} <= report["answers"].keys()
    text = (folder / "untorch.json").read_text()
    assert str(folder.parent) not in text


def test_config_has_every_default_and_no_place(exported):
    config = read_json(exported("Bert")[1] / "config.json")
    assert config["max_position_embeddings"] == 160
    assert config["hidden_act"] == "gelu"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert "_name_or_path" not in config


def files(folder):
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads(found.pop("untorch.json"))
    assert manifest.pop("created")
    return found, manifest


def test_the_same_inputs_give_the_same_bytes(exported, tmp_path):
    """In another process, with another hash seed, to another place."""
    checkpoint, folder = exported("Bert")
    code = "import sys; from untorch_export.export import export; export(*sys.argv[1:])"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    subprocess.run([sys.executable, "-c", code, checkpoint, tmp_path / "again"], env=environment, check=True)
    first, again = files(folder), files(tmp_path / "again")
    assert first[1] == again[1]
    assert first[0] == again[0]


def test_random_weights_come_from_the_seed_alone(tmp_path):
    source = tmp_path / "config-only"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": "bert", **FAMILIES["Bert"], **SHORT}))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(ord(name))  # the caller's own state must not matter
        with pytest.warns(match="no tokenizer"):
            manifest = export(source, tmp_path / name, random_init=True, seed=seed, precisions=["fp32"])
    assert manifest.task == "feature-extraction"
    assert manifest.source["random_init"]["seed"] == 2
    a, b, c = (files(tmp_path / name)[0] for name in "abc")
    assert a == b
    assert a["onnx/model.onnx_data"] != c["onnx/model.onnx_data"]
    assert "tokenizer.json" not in a


def test_int8_alone(exported, tmp_path):
    manifest = export(exported("DistilBert")[0], tmp_path / "bundle", precisions=["int8"])
    assert list(manifest.variants) == ["int8"]
    assert not (tmp_path / "bundle/onnx/model.onnx").exists()
    Bundle(tmp_path / "bundle").check()


def test_a_new_export_replaces_the_bundle_and_a_failed_one_does_not(exported, tmp_path):
    target = tmp_path / "bundle"
    export(exported("Bert")[0], target, precisions=["fp32"])
    before = files(target)
    with pytest.raises(ExportError):
        export(tmp_path / "nothing-here/at/all", target)
    assert files(target) == before
    export(exported("Electra")[0], target, precisions=["fp32"])
    assert read_json(target / "config.json")["model_type"] == "electra"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_layers_that_share_their_weights_keep_their_own_outliers(tmp_path):
    """ALBERT's layers are one layer, whose activations differ each time round."""
    checkpoint = family(tmp_path / "albert", "Albert", hidden_size=32, embedding_size=16, num_hidden_layers=3)
    int8 = export(checkpoint, tmp_path / "bundle").variants["int8"]
    # With the first layer's outliers in every layer it is more than 2.
    assert int8.parity["outputs"]["last_hidden_state"]["max_abs_difference"] < 0.6
    assert int8.extra["fused_layers"] == int8.extra["layers"] == 3


def test_a_short_count_of_fused_layers_is_said(tmp_path):
    """Scores of all heads are mixed inside attention, which no fused operator does."""
    checkpoint = family(tmp_path / "mixed", "Deberta", talking_head=True, type_vocab_size=0)
    with pytest.warns(match=f"only 0 of {LAYERS} attention layers fused"):
        manifest = export(checkpoint, tmp_path / "bundle", keep_failed=True)
    assert manifest.variants["int8"].extra["fused_layers"] == 0
