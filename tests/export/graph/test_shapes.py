"""Shapes inside a graph: what ONNX's inference leaves open, and the rest says."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from untorch_export.graph.rewriting import Graph, node
from untorch_export.graph.shapes import infer


def reshaped(axes, *parts, constant=None):
    """x of these axes, in the shape of these parts: a name is the size of x's axis of that name, a number itself."""
    sizes = {axis: place for place, axis in enumerate(axes) if isinstance(axis, str)}
    nodes, names, weights = [], [], []
    for index, part in enumerate(parts):
        names.append(f"part{index}")
        if isinstance(part, str):
            nodes.append(node("Shape", ["x"], names[-1], start=sizes[part], end=sizes[part] + 1))
        else:
            weights.append(numpy_helper.from_array(np.array([part]), names[-1]))
    if constant is not None:
        weights.append(numpy_helper.from_array(np.array(constant), "shape"))
    else:
        nodes.append(node("Concat", names, "shape", axis=0))
    nodes += [node("Reshape", ["x", "shape"], "y"), node("Neg", ["y"], "z")]
    graph = helper.make_graph(
        nodes,
        "reshaped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        weights,
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10))


CASES = [
    (["batch", "sequence", 768], ["batch", "sequence", -1, 64], ("batch", "sequence", 12, 64)),
    (["batch", 12, "sequence", 64], ["batch", -1, "sequence", 64], ("batch", 12, "sequence", 64)),
    (["batch", "sequence", 12, 64], ["batch", "sequence", -1], ("batch", "sequence", 768)),
    (["batch", "sequence", 96], ["batch", "sequence", 3, -1, 8], ("batch", "sequence", 3, 4, 8)),
    (["batch", "choices", 9], [-1, 9], (None, 9)),  # a product of two axes has no name
    (["batch", 4, 9], [-1, 9], (None, 9)),
    (["batch", "sequence", 10], ["batch", "sequence", -1, 4], ("batch", "sequence", None, 4)),  # ten have no fours
    (["batch", "sequence", 8], ["sequence", -1], ("sequence", None)),
    (["sequence", 8], [-1, 8], ("sequence", 8)),
]


@pytest.mark.parametrize(("axes", "parts", "expected"), CASES, ids=str)
def test_an_open_axis_is_what_is_left_when_equal_ones_are_crossed_out(axes, parts, expected):
    shapes = infer(reshaped(axes, *parts))
    assert shapes["y"] == shapes["z"] == expected


def test_an_unknown_axis_in_front_is_the_sources_own():
    shapes = infer(reshaped([None, "sequence", 32], constant=[0, 0, -1, 8]))
    assert shapes["y"] == (None, "sequence", 4, 8)


def test_the_weights_shapes_are_known_without_their_values():
    graph = reshaped(["batch", 8], constant=[-1, 8])
    graph.set_constant("large", np.zeros((300, 8), np.float32))
    graph.append(node("Gemm", ["y", "large"], "product", transB=1))
    graph.add_output("product", TensorProto.FLOAT, None)
    assert infer(graph)["product"] == ("batch", 300)
    assert not [tensor for tensor in graph.outline().graph.initializer if tensor.name == "large"]
