"""Bundles of models that generate: their graphs, what their manifest says, and that `verify` replays them."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from helpers.generators import CAUSAL, SEQ2SEQ, generator
from untorch.bundle.folder import Bundle, read_json
from untorch.tools.verification import verify
from untorch_export.errors import ExportError, ExportWarning
from untorch_export.export import export
from untorch_export.trace import transformers_5


@pytest.fixture(scope="module")
def bundles(make_bundle):
    return lambda name: make_bundle(f"{name}-generates", lambda folder: generator(folder, name), precisions=["fp32"])


def test_a_tied_output_layer_is_stored_once(bundles):
    """A bundle is about as large as its checkpoint."""
    source, folder = bundles("GPT2")
    checkpoint, bundle = (
        path.stat().st_size for path in (source / "model.safetensors", folder / "onnx/model.onnx_data")
    )
    assert bundle < 1.1 * checkpoint


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_the_manifest_and_the_graphs(bundles, family):
    _, folder = bundles(family)
    bundle = Bundle(folder)
    variant = bundle.variant("fp32")
    assert variant.verdict == "exact"
    assert {"logits", "logits with cache"} <= set(variant.parity["outputs"])
    assert 0 < variant.parity["gate"]["measured"] < variant.parity["gate"]["limit"] == 1e-4
    if family in CAUSAL:
        assert bundle.task == "text-generation"
        assert set(variant.graphs) == {"model"}
        graph, parts = variant.graphs["model"], ("",)
    else:
        assert bundle.task == "text2text-generation"
        assert set(variant.graphs) == {"encoder", "decoder"}
        assert variant.graphs["encoder"].outputs[0].axes == ("batch", "encoder_sequence", 32)
        graph, parts = variant.graphs["decoder"], ("decoder.", "encoder.")
    axes = {tensor.name: tensor.axes for tensor in (*graph.inputs, *graph.outputs)}
    if family in SEQ2SEQ and transformers_5():
        # There the encoder gives the keys and values that the decoder looks at, and no branch computes them.
        assert not [name for name in axes if name.startswith("present") and ".encoder." in name]
        axes |= {tensor.name: tensor.axes for tensor in variant.graphs["encoder"].outputs}
    assert axes["input_ids"] == ("batch", "sequence")
    assert axes["logits"][:2] == ("batch", "sequence")
    heads = 2 if family in ("Llama", "Qwen2") else 4
    for layer in range(2):
        for part in parts:
            past = "encoder_sequence" if part == "encoder." else "past_sequence"
            assert axes[f"past_key_values.{layer}.{part}key"] == ("batch", heads, past, 8)
            present = past if part == "encoder." else "past_sequence + sequence"
            assert axes[f"present.{layer}.{part}value"] == ("batch", heads, present, 8)
    assert read_json(folder / "generation_config.json")["eos_token_id"] == 2
    assert (folder / "chat_template.jinja").is_file()


@pytest.mark.parametrize("family", ["Llama", "T5"])
def test_verify_replays_the_golden_cases(bundles, family, tmp_path):
    _, folder = bundles(family)
    report = verify(Bundle(folder))
    assert report.passed
    assert report.replays[0].cases == (5 if family == "Llama" else 9)
    # The same bundle with another model's answers differs.
    changed = tmp_path / "bundle"
    shutil.copytree(folder, changed)
    with np.load(changed / "golden.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = next(name for name in arrays if name.endswith("outputs/logits"))
    arrays[name] = arrays[name] + 0.1
    np.savez_compressed(changed / "golden.npz", **arrays)
    manifest = read_json(changed / "untorch.json")
    record = manifest["files"]["golden.npz"]
    record["size"] = (changed / "golden.npz").stat().st_size
    record["sha256"] = hashlib.sha256((changed / "golden.npz").read_bytes()).hexdigest()
    (changed / "untorch.json").write_text(json.dumps(manifest))
    assert not verify(Bundle(changed)).passed


@pytest.mark.parametrize("family", ["GPT2", "Bart"])
def test_the_same_checkpoint_gives_the_same_bytes(bundles, family, tmp_path):
    source, folder = bundles(family)
    manifest = export(source, tmp_path / "again", precisions=["fp32"])
    for name in manifest.files:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_int8_is_said_to_be_missing(bundles, tmp_path):
    source, _ = bundles("GPT2")
    with pytest.raises(ExportError, match="no int8 variant"):
        export(source, tmp_path / "bundle", precisions=["int8"])
    with pytest.warns(ExportWarning, match="fp32 only"):
        manifest = export(source, tmp_path / "bundle")
    assert set(manifest.variants) == {"fp32"}
