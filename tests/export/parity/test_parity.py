"""Parity must notice what is wrong: a changed weight, a neighbour's influence, a lost label, not a number."""

from __future__ import annotations

import json
import math
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from helpers.families import family
from untorch.bundle.folder import Bundle
from untorch_export import export as road
from untorch_export import precisions
from untorch_export.answers import figures
from untorch_export.checkpoint.inputs import encode
from untorch_export.checkpoint.load import load
from untorch_export.errors import ExportError, GateError
from untorch_export.parity import evalset, forward, gates
from untorch_export.parity.reference import SHAPES, Reference, grid

NAMES = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return family(tmp_path_factory.mktemp("parity"), "Bert")


@pytest.fixture(scope="module")
def checkpoint(folder):
    return load(folder)


def judge(checkpoint, spoil, precision="fp32", texts=None):
    """Measure a variant that is PyTorch itself, its outputs changed by `spoil(inputs, outputs)`."""
    with Reference(checkpoint) as reference:

        def run(inputs):
            outputs = {name: array.copy() for name, array in reference(inputs).items()}
            spoil(inputs, outputs)
            return outputs

        ticks = lambda done, total: None  # noqa: E731
        return forward.measure(checkpoint, reference, {precision: run}, NAMES, texts, [], ticks)[precision]


def test_every_shape_is_tried_ragged_and_to_the_limit(checkpoint):
    batches = list(grid(checkpoint, NAMES))
    shapes = {batch.inputs["input_ids"].shape for batch in batches}
    assert shapes == {*SHAPES, (1, 160)}
    for batch in batches:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert ((ids == 0) == (mask == 0)).all()
        assert mask[0].all()
        assert mask.any(axis=1).all()
    assert any((batch.inputs["attention_mask"] == 0).any() for batch in batches)
    assert any(batch.inputs["token_type_ids"].any() for batch in batches)


def test_pytorch_agrees_with_itself(checkpoint):
    found = judge(checkpoint, lambda inputs, outputs: None)
    assert found.verdict == "exact"
    assert found.report["outputs"]["logits"]["max_abs_difference"] == 0


def test_one_wrong_element_in_one_case_is_found_where_it_is(checkpoint):
    def spoil(inputs, outputs):
        if inputs["input_ids"].shape == (7, 17):
            outputs["logits"][3, 1] += 2e-4

    found = judge(checkpoint, spoil)
    assert found.verdict == "failed"
    worst = found.report["outputs"]["logits"]["worst"]
    assert (worst["case"], worst["output"], worst["index"]) == ("random 7x17", "logits", [3, 1])
    assert found.report["outputs"]["logits"]["max_abs_difference"] == pytest.approx(2e-4, rel=1e-2)


def test_a_row_that_feels_its_neighbours_is_found(checkpoint):
    """Each output is right on average; only a row alone and the same row in a batch differ."""

    def spoil(inputs, outputs):
        outputs["logits"] += 0.6e-4 if len(inputs["input_ids"]) == 1 else -0.6e-4

    found = judge(checkpoint, spoil)
    assert found.report["outputs"]["logits"]["max_abs_difference"] < gates.TOLERANCE
    assert found.report["row_alone"]["max_abs_difference"] == pytest.approx(1.2e-4, rel=0.1)
    assert found.verdict == "failed"


def test_not_a_number_fails(checkpoint):
    def spoil(inputs, outputs):
        if inputs["input_ids"].shape == (2, 3):
            outputs["last_hidden_state"][0, 0, 0] = np.nan

    found = judge(checkpoint, spoil)
    assert found.verdict == "failed"
    assert found.report["outputs"]["last_hidden_state"]["max_abs_difference"] == math.inf


@pytest.fixture
def text_only(monkeypatch):
    """Leave out the random batches, which those tests that are about answers do not need."""
    monkeypatch.setattr(forward, "grid", lambda checkpoint, names: iter(()))


@pytest.mark.usefixtures("text_only")
def test_reduced_precision_needs_the_same_labels(checkpoint):
    def turned(inputs, outputs):
        outputs["logits"] = outputs["logits"][:, ::-1]

    texts = evalset.built_in(pairs=False)
    assert judge(checkpoint, turned, "int8", texts).verdict == "failed"
    scaled = judge(checkpoint, lambda inputs, outputs: outputs["logits"].__imul__(1.5), "int8", texts)
    assert scaled.verdict == "close"
    assert scaled.report["answers"]["batch 1"]["probability_change"]["max"] > 0


@pytest.mark.usefixtures("text_only")
def test_labels_decide_where_they_are_given(checkpoint, tmp_path):
    with Reference(checkpoint) as reference:
        texts = evalset.built_in(pairs=False)
        rows = []
        for text in texts.texts:
            logits = reference(encode(checkpoint, NAMES, [text], None))["logits"]
            rows.append(f"{logits.argmax()}\t{text}")
    file = tmp_path / "dev.tsv"
    file.write_text("\n".join(["label\ttext", *rows]) + "\n")
    labelled = evalset.read(file, checkpoint)
    found = judge(checkpoint, lambda inputs, outputs: None, "int8", labelled)
    assert found.report["answers"]["batch 32"]["accuracy"] == {"correct": 100, "pytorch": 100, "of": 100}

    def one_lost(inputs, outputs):  # of a hundred: a whole point
        if len(inputs["input_ids"]) == 1 and (inputs["input_ids"] == first).all():
            outputs["logits"] = outputs["logits"][:, ::-1]

    first = encode(checkpoint, NAMES, [texts.texts[0]], None)["input_ids"]
    first_only = lambda inputs, outputs: (  # noqa: E731
        one_lost(inputs, outputs) if inputs["input_ids"].shape == first.shape else None
    )
    lost = judge(checkpoint, first_only, "int8", labelled)
    assert lost.report["gate"]["measured"] == 1
    assert lost.verdict == "failed"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\tlabel\nfine\t7\n", "line 2: label '7' is none of"),
        ("text\tlabel\nfine\n", "line 2: 1 columns"),
        ("a\tb\tc\tlabel\n1\t2\t3\t1\n", "needs a header with `label`"),
        ("text\tlabel\n", "no rows"),
        ("", "holds no text"),
    ],
)
def test_bad_evaluation_files(checkpoint, tmp_path, content, message):
    (tmp_path / "dev.tsv").write_text(content)
    with pytest.raises(ExportError, match=message):
        evalset.read(tmp_path / "dev.tsv", checkpoint)


def test_labels_may_be_names(checkpoint, tmp_path):
    (tmp_path / "dev.tsv").write_text('sentence\tlabel\n"quoted"\tLABEL_1\nb\t0\n')
    read = evalset.read(tmp_path / "dev.tsv", checkpoint)
    assert (read.texts, read.labels) == (['"quoted"', "b"], [1, 0])


def spoil_int8(monkeypatch):
    """Have the quantizer lose the sign of one weight matrix, as a defect in it would."""
    from onnx import numpy_helper

    whole = precisions.quantize_int8

    def broken(model, batches):
        spoilt = deepcopy(model)  # others are made of the same
        for tensor in spoilt.graph.initializer:
            if "classifier" in tensor.name and len(tensor.dims) == 2:
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
        return whole(spoilt, batches)

    monkeypatch.setattr(precisions, "quantize_int8", broken)


def test_a_variant_that_misses_its_gate_is_left_out_and_says_why(folder, tmp_path, monkeypatch):
    spoil_int8(monkeypatch)
    manifest = road.export(folder, tmp_path / "bundle", precisions=["fp32", "int8"])
    assert list(manifest.variants) == ["fp32"]
    assert not list((tmp_path / "bundle/onnx").glob("*int8*"))
    assert Bundle(tmp_path / "bundle").manifest.extra["refused"]["int8"]["gate"]["measured"] < 0.5
    with pytest.raises(GateError, match="nothing was written"):
        road.export(folder, tmp_path / "none", precisions=["int8"])
    assert not (tmp_path / "none").exists()


def test_a_failed_variant_that_is_kept_says_so(folder, tmp_path, monkeypatch):
    spoil_int8(monkeypatch)
    manifest = road.export(folder, tmp_path / "bundle", precisions=["fp32", "int8"], keep_failed=True)
    assert manifest.variants["int8"].verdict == "failed"
    assert json.loads((tmp_path / "bundle/untorch.json").read_text())["variants"]["int8"]["verdict"] == "failed"


tables = npst.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=st.floats(-9, 9, width=32))


@given(tables)
def test_a_table_agrees_with_itself_and_its_probabilities_do_not_move(table):
    found = figures.agreement([table], [table])
    assert (found["rate"], found["ties"]) == (1, 0)
    assert figures.probability_changes([table], [table])["max"] == 0


@given(tables, st.floats(0, 0.015625, width=32))
def test_a_change_smaller_than_half_a_tie_never_disagrees(table, change):
    noise = np.where(np.arange(table.size).reshape(table.shape) % 2, change, -change).astype(np.float32)
    assert figures.agreement([table], [table + noise])["rate"] == 1


def test_ties_are_counted_and_real_changes_are_not_excused():
    expected = [np.array([[1.0, 1.01], [0.0, 3.0]], np.float32)]
    tie = figures.agreement(expected, [np.array([[1.1, 1.0], [0.0, 3.0]], np.float32)])
    assert tie == {"same": 2, "of": 2, "ties": 1, "rate": 1}
    changed = figures.agreement(expected, [np.array([[1.0, 1.1], [3.0, 0.0]], np.float32)])
    assert changed["same"] == 1
