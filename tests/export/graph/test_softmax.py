"""Attention fused from the softmax outwards: the same numbers, and left alone where it is something else."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from untorch_export.graph.rewriting import Graph
from untorch_export.graph.softmax import fuse_softmax

HEADS, SIZE, WIDTH = 2, 4, 8


def attention(*, scale="after", key="transposed at once", add=("mask", "relative"), inside=False):
    """softmax(q @ k.T / 3 + mask + relative) @ v of x (batch, sequence, 8), written with small operators."""
    weights = np.random.default_rng(0).normal(size=(3, WIDTH, WIDTH)).astype(np.float32)
    constants = {"third": np.float32(3), "split": np.array([0, 0, HEADS, SIZE]), "join": np.array([0, 0, WIDTH])}
    constants |= {f"w{index}": weight for index, weight in enumerate(weights)}
    nodes = []

    def node(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    parts = []
    for index, name in enumerate("qkv"):
        split = node("Reshape", [node("MatMul", ["x", f"w{index}"], f"{name}3"), "split"], f"{name}split")
        at_once = name == "k" and key == "transposed at once"
        parts.append(node("Transpose", [split], f"{name}4", perm=[0, 2, 3, 1] if at_once else [0, 2, 1, 3]))
    q, k, v = parts
    if key == "transposed twice":
        k = node("Transpose", [k], "k_again", perm=[0, 1, 3, 2])
    scores = node("MatMul", [q, k], "scores")
    if inside:  # before scaling, which the operator cannot do
        scores = node("Add", [scores, "relative"], "with_relative")
    if scale == "after":
        scores = node("Div", [scores, "third"], "scaled")
    for name in add:
        # Either order of the addends occurs.
        scores = node("Add", [scores, name] if name == "mask" else [name, scores], f"with_{name}_later")
    context = node("MatMul", [node("Softmax", [scores], "weights", axis=-1), v], "context")
    node("Reshape", [node("Transpose", [context], "merged", perm=[0, 2, 1, 3]), "join"], "y")
    inputs = {"x": ["b", "s", WIDTH], "mask": ["b", 1, 1, "s"], "relative": [1, HEADS, "s", "s"]}
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "s", WIDTH])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model, length=5):
    random = np.random.default_rng(length)
    feeds = {
        "x": random.normal(size=(3, length, WIDTH)).astype(np.float32),
        "mask": np.where(random.random((3, 1, 1, length)) < 0.3, -1e9, 0).astype(np.float32),
        "relative": random.normal(size=(1, HEADS, length, length)).astype(np.float32),
    }
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.parametrize("length", [1, 5, 33])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"add": ()}, {"add": ("mask",)}, {"add": ("relative",)}, {"scale": None}, {"key": "transposed twice"}],
    ids=str,
)
def test_the_same_numbers(arguments, length):
    model = attention(**arguments)
    graph = Graph(model)
    fuse_softmax(graph, HEADS)
    fused = graph.finish()
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds.count("MultiHeadAttention") == 1
    assert "Softmax" not in kinds
    np.testing.assert_allclose(run(fused, length), run(model, length), atol=1e-5)


def test_what_is_added_before_scaling_is_left_alone():
    model = attention(inside=True)
    before = [node.op_type for node in model.graph.node]
    graph = Graph(model)
    fuse_softmax(graph, HEADS)
    assert [node.op_type for node in graph.nodes] == before
