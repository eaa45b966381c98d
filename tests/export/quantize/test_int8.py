from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from helpers.families import family
from untorch.bundle.folder import Bundle
from untorch.ort.session import Session
from untorch_export.errors import ExportError
from untorch_export.export import export
from untorch_export.parity.texts import CALIBRATION_TEXTS, TEXTS
from untorch_export.quantize.ranges import OUTLIERS, Range
from untorch_export.quantize.rounding import quantize_columns

VALUES = st.floats(-1e4, 1e4, width=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return family(tmp_path_factory.mktemp("quantize"), "Bert")


@given(npst.arrays(np.float32, (5, 24), elements=VALUES))
def test_the_levels_hold_every_value_that_is_no_outlier(rows):
    found = Range(rows.min(0), rows.max(0), rows.mean(0), normalised=False)
    step, zero = (float(value) for value in found.levels())
    rest = np.delete(rows.astype(np.float64), found.outliers, axis=1)
    assert rest.shape[1] == 24 - OUTLIERS
    held = (np.clip(np.rint(rest / step) + zero, 0, 255) - zero) * step
    assert np.abs(held - rest).max() <= step * 1.01
    # A zero, which padding and dead channels are full of, is exact.
    assert 0 <= zero <= 255


@given(npst.arrays(np.float32, (12, 7), elements=VALUES), st.sets(st.integers(0, 11), max_size=4))
def test_columns_keep_half_a_level(weight, without):
    integers, scales = quantize_columns(weight, np.array(sorted(without), np.int64))
    expected = weight.copy()
    expected[sorted(without)] = 0
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max(initial=0) <= 127
    np.testing.assert_allclose(integers * scales, expected, atol=float(scales.max()) * 0.501)


def test_an_answer_does_not_depend_on_its_neighbours(checkpoint, tmp_path):
    """Nor on how far beyond the ranges they are: one scale for a batch would move it."""
    export(checkpoint, tmp_path / "bundle", precisions=["int8"], keep_failed=True)
    graph = Bundle(tmp_path / "bundle").variant("int8").graphs["model"]
    session = Session(tmp_path / "bundle" / graph.file, device="cpu", optimized=True)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 60, (16, 12))

    def logits(rows):
        feeds = {tensor.name: np.ones_like(rows) if "mask" in tensor.name else rows * 0 for tensor in graph.inputs}
        return session.run({**feeds, "input_ids": rows}, ["logits"])[0]

    together = logits(ids)
    alone = np.concatenate([logits(row[None]) for row in ids])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_queries_keys_and_values_are_one_product(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "bundle", precisions=["int8"], keep_failed=True)
    graph = onnx.load(tmp_path / "bundle/onnx/model_int8.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    layers = kinds.count("MultiHeadAttention")
    # Four products a layer: three at once, attention's output, and the two of the feed-forward network.
    assert kinds.count("MatMulIntegerToFloat") == 4 * layers
    assert kinds.count("Split") == layers


def test_the_calibration_file_sets_the_ranges(checkpoint, tmp_path):
    assert not set(CALIBRATION_TEXTS) & set(TEXTS)
    own = tmp_path / "texts.txt"
    own.write_text("hello world\n\nthis movie is great\n", encoding="utf-8")
    default = export(checkpoint, tmp_path / "default", precisions=["int8"], keep_failed=True).variants["int8"]
    mine = export(checkpoint, tmp_path / "mine", precisions=["int8"], keep_failed=True, calibration_file=own).variants[
        "int8"
    ]
    assert default.extra["calibration_texts"] == len(CALIBRATION_TEXTS)
    assert mine.extra["calibration_texts"] == 2
    graphs = [(tmp_path / name / "onnx/model_int8.onnx").read_bytes() for name in ("default", "mine")]
    assert graphs[0] != graphs[1]


@pytest.mark.parametrize(("content", "reason"), [(b"\n  \n", "holds no text"), (b"\xff\xfe", "cannot be read")])
def test_a_calibration_file_without_texts(checkpoint, tmp_path, content, reason):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(ExportError, match=reason):
        export(checkpoint, tmp_path / "bundle", calibration_file=tmp_path / "texts.txt")
    with pytest.raises(ExportError, match="cannot be read"):
        export(checkpoint, tmp_path / "bundle", calibration_file=tmp_path / "nothing.txt")
    assert not (tmp_path / "bundle").exists()
