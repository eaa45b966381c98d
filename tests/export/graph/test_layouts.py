"""Falcon: all queries share one head of keys, cut out of an array whose size ONNX Runtime cannot tell."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from untorch_export.graph.rewriting import Graph
from untorch_export.graph.standard import fuse_standard

HEADS, SIZE = 4, 8


def falcon() -> onnx.ModelProto:
    """x (batch, sequence, 48) has four heads of queries, one of keys and one of values."""
    sizes = {"all": [HEADS + 2], "open": [-1], "zero": [0], "four": [HEADS], "two": [2]}
    constants = {name: np.array(value, np.int64) for name, value in sizes.items()}
    constants |= {"key place": np.array([[HEADS]], np.int64), "value place": np.array([[-1]], np.int64)}
    constants["out"] = np.random.default_rng(0).normal(size=(HEADS * SIZE, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Shape", ["x"], ["length"], start=1, end=2),
        helper.make_node("Concat", ["batch", "length", "all", "open"], ["parts"], axis=0),
        helper.make_node("Reshape", ["x", "parts"], ["view"], allowzero=1),
        helper.make_node("Slice", ["view", "zero", "four", "two"], ["queries"]),
        helper.make_node("Transpose", ["queries"], ["q"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["view"], ["by head"], perm=[2, 0, 1, 3]),
    ]
    for name, result in (("key place", "k"), ("value place", "v")):
        nodes.append(helper.make_node("GatherND", ["by head", name], [f"{result} first"]))
        nodes.append(helper.make_node("Transpose", [f"{result} first"], [result], perm=[1, 0, 2, 3]))
    nodes += [
        helper.make_node("Attention", ["q", "k", "v"], ["attended"]),
        helper.make_node("Transpose", ["attended"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Concat", ["batch", "length", "open"], ["rows"], axis=0),
        helper.make_node("Reshape", ["turned", "rows"], ["joined"], allowzero=1),
        helper.make_node("MatMul", ["joined", "out"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "falcon",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", (HEADS + 2) * SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def test_onnx_runtime_opens_a_graph_whose_heads_share_one_of_keys_and_values():
    model = falcon()
    graph = Graph(model)
    fuse_standard(graph)
    (layer,) = graph.of("Attention")
    assert {item.name: item.i for item in layer.attribute}["kv_num_heads"] == 1
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 7, 48)).astype(np.float32)}
    want, got = (
        InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for made in (model, graph.finish())
    )
    np.testing.assert_allclose(got, want, atol=1e-5)
