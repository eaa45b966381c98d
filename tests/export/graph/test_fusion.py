"""Products on rows made flat, as GPT-2's layers trace to: made products of whole rows, which is what int8 takes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from untorch_export.graph.fusion import fuse
from untorch_export.quantize.int8 import quantize_int8
from untorch_export.quantize.ranges import observe

HEADS, WIDTH, OUTPUTS = 2, 32, 48
CONFIG = {"num_attention_heads": HEADS, "hidden_size": WIDTH}


def flattened(path, *, bias=True, heads=False, **attributes):
    """y = x @ w + b of x (batch, sequence, WIDTH): rows made flat, `Gemm`, and back; saved at `path`.

    With `heads`, x is (batch, heads, sequence, size), and the first Reshape joins the heads as well.
    """
    random = np.random.default_rng(0)
    shape = (OUTPUTS, WIDTH) if attributes.get("transB") else (WIDTH, OUTPUTS)
    constants = {"w": random.normal(size=shape) / 8, **({"b": random.normal(size=OUTPUTS)} if bias else {})}
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    constants |= {"flat": np.array([-1, WIDTH]), "last": np.array([OUTPUTS])}
    joined = [helper.make_node("Transpose", ["x"], ["rows"], perm=[0, 2, 1, 3])] if heads else []
    rows = "rows" if heads else "x"
    nodes = [
        *joined,
        helper.make_node("Shape", [rows], ["lengths"], start=0, end=2),
        helper.make_node("Concat", ["lengths", "last"], ["back"], axis=0),
        helper.make_node("Reshape", [rows, "flat"], ["x2"]),
        helper.make_node("Gemm", ["x2", "w", *["b"] * bias], ["y2"], "product", **attributes),
        helper.make_node("Reshape", ["y2", "back"], ["y"]),
    ]
    axes = ["batch", HEADS, "sequence", WIDTH // HEADS] if heads else ["batch", "sequence", WIDTH]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", OUTPUTS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def kinds(model):
    return [node.op_type for node in model.graph.node]


def feeds(*, heads=False, batch=3, length=5):
    shape = (batch, HEADS, length, WIDTH // HEADS) if heads else (batch, length, WIDTH)
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


def run(model, given):
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], given)[0]


@pytest.mark.parametrize("bias", [True, False], ids=["with a bias", "without a bias"])
def test_a_product_on_flat_rows_is_one_of_whole_rows_and_is_quantised(bias, tmp_path):
    path = flattened(tmp_path / "model.onnx", bias=bias)
    fused = fuse(path, CONFIG)
    assert kinds(fused) == ["MatMul", *["Add"] * bias]
    expected = run(onnx.load(path), feeds())
    np.testing.assert_allclose(run(fused, feeds()), expected, atol=1e-5)
    quantised = quantize_int8(fused, observe(fused, [feeds()]))
    assert "MatMulIntegerToFloat" in kinds(quantised)
    np.testing.assert_allclose(run(quantised, feeds()), expected, atol=0.1)


@pytest.mark.parametrize("bias", [True, False], ids=["with a bias", "without a bias"])
@pytest.mark.parametrize(
    "attributes", [{"alpha": 0.5}, {"beta": 0.5}, {"transB": 1}, {"heads": True}], ids=lambda item: next(iter(item))
)
def test_a_product_that_is_more_than_that_keeps_its_numbers(attributes, bias, tmp_path):
    path = flattened(tmp_path / "model.onnx", bias=bias, **attributes)
    given = feeds(heads="heads" in attributes)
    np.testing.assert_allclose(run(fuse(path, CONFIG), given), run(onnx.load(path), given), atol=1e-5)
