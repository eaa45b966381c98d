"""Attention fused from the softmax outwards: the same numbers, and left alone where it is something else."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from untorch_export.graph.fusion import unfused
from untorch_export.graph.rewriting import Graph, attribute, node
from untorch_export.graph.softmax import attends, fuse_softmax

HEADS, SIZE, WIDTH = 2, 4, 8


def attention(
    *, scale="after", key="transposed at once", add=("mask", "relative"), inside=False, merged=False, masked=False,
    capped=False, splits=False,
):  # fmt: skip
    """softmax(q @ k.T / 3 + mask + relative) @ v of x (batch, sequence, 8), written with small operators.

    `inside` adds `relative` before scaling, too; with `merged` heads are joined with the batch for the two products;
    `masked` has the mask choose the lowest number rather than add it; `capped` scores are no attention that the
    operator knows. With `splits` the result keeps an axis for heads.
    """
    weights = np.random.default_rng(0).normal(size=(3, WIDTH, WIDTH)).astype(np.float32)
    constants = {"third": np.float32(3), "split": np.array([0, 0, HEADS, SIZE]), "join": np.array([0, 0, WIDTH])}
    constants |= {"zero": np.array([0]), "one": np.array([1])}
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
    constants |= {"lowest": np.finfo(np.float32).min, "low": np.float32(-1)}
    if merged:
        shape = node("Shape", ["x"], "length", start=1, end=2)
        constants |= {"open": np.array([-1]), "sizes": np.array([SIZE]), "heads": np.array([HEADS])}
        wide = node("Concat", ["open", shape, "sizes"], "wide", axis=0)
        q, v = node("Reshape", [q, wide], "q_rows"), node("Reshape", [v, wide], "v_rows")
        k = node("Reshape", [k, node("Concat", ["open", "sizes", shape], "tall", axis=0)], "k_rows")
    if scale == "computed":
        root = node("Sqrt", [node("Cast", [node("ReduceMax", ["split"], "four", keepdims=0)], "size", to=1)], "root")
        k = node("Div", [k, root], "k_scaled")
    if key == "transposed twice":
        k = node("Transpose", [k], "k_again", perm=[0, 1, 3, 2])
    scores = node("MatMul", [q, k], "scores")
    if inside:
        bias = node("Squeeze", ["relative", "zero"], "no_batch") if merged else "relative"
        bias = node("Slice", [bias, "zero", "one", "zero"], "one_head") if merged else bias  # which the rows share
        scores = node("Add", [scores, bias], "with_relative")
    if scale == "after":
        scores = node("Div", [scores, "third"], "scaled")
    if capped:
        scores = node("Tanh", [scores], "capped")
    if merged:
        split = node("Concat", ["open", "heads", "length", "length"], "split_scores", axis=0)
        scores = node("Reshape", [scores, split], "by_heads")
    for name in add:
        # Either order of the addends occurs.
        scores = node("Add", [scores, name] if name == "mask" else [name, scores], f"with_{name}_later")
    if masked:
        scores = node("Where", [node("Less", ["mask", "low"], "hidden"), "lowest", scores], "masked")
    _weigh(node, scores, v, merged=merged, splits=splits)
    return _model(nodes, constants)


def _weigh(node, scores, v, *, merged, splits):
    """softmax(scores) @ v, with heads joined to rows or, where it `splits`, on an axis of their own for a while."""
    weights = node("Softmax", [scores], "weights", axis=-1)
    if merged:
        weights = node("Reshape", [weights, node("Concat", ["open", "length", "length"], "joined", axis=0)], "shares")
    context = node("MatMul", [weights, v], "context")
    if merged:
        parted = node("Concat", ["open", "heads", "length", "sizes"], "parted", axis=0)
        context = node("Reshape", [context, parted], "context_by_heads")
    if splits:
        node("Reshape", [node("Relu", [context], "positive"), node("Shape", ["x"], "like")], "y")
    else:
        node("Reshape", [node("Transpose", [context], "merged", perm=[0, 2, 1, 3]), "join"], "y")


def _model(nodes, constants):
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
    [
        {}, {"add": ()}, {"add": ("mask",)}, {"add": ("relative",)}, {"scale": None}, {"key": "transposed twice"},
        {"scale": "computed"}, {"scale": "computed", "merged": True},
        {"inside": True}, {"inside": True, "add": ()}, {"masked": True, "add": ()}, {"masked": True, "inside": True},
        {"merged": True}, {"merged": True, "add": ()}, {"merged": True, "inside": True}, {"splits": True},
        {"merged": True, "inside": True, "masked": True, "splits": True},
    ],
    ids=str,
)  # fmt: skip
def test_the_same_numbers(arguments, length):
    model = attention(**arguments)
    graph = Graph(model)
    fuse_softmax(graph, HEADS)
    fused = graph.finish()
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds.count("MultiHeadAttention") == 1
    assert "Softmax" not in kinds
    np.testing.assert_allclose(run(fused, length), run(model, length), atol=1e-5)


def test_capped_scores_are_left_alone_and_the_reason_is_said():
    model = attention(capped=True)
    before = [node.op_type for node in model.graph.node]
    graph = Graph(model)
    fuse_softmax(graph, HEADS)
    assert [node.op_type for node in graph.nodes] == before
    assert unfused(model) == {
        "its scores are not one product of queries and keys, scaled, with something added or masked afterwards": 1
    }


def test_the_heads_are_those_of_the_graph_where_a_config_counts_others():
    graph = Graph(attention())
    fuse_softmax(graph, 7 * HEADS)
    (layer,) = graph.of("MultiHeadAttention")
    assert attribute(layer, "num_heads", 0) == HEADS


def test_a_softmax_that_chooses_experts_is_no_layer_of_attention():
    model = attention()
    graph = Graph(model)
    graph.add_constant("router", np.ones((WIDTH, 3), np.float32))
    graph.append(node("MatMul", ["y", "router"], "votes"), node("Softmax", ["votes"], "experts", axis=-1))
    assert [attends(graph, softmax) for softmax in graph.of("Softmax")] == [True, False]


def test_heads_that_are_mixed_are_a_layer_that_is_not_fused():
    model = attention(scale=None, add=())
    graph = Graph(model)
    (softmax,) = graph.of("Softmax")
    mix = graph.add_constant("mix", np.eye(HEADS, dtype=np.float32))
    graph.insert_before(
        softmax,
        node("Transpose", ["scores"], "heads last", perm=[0, 2, 3, 1]),
        node("MatMul", ["heads last", mix], "mixed"),
        node("Transpose", ["mixed"], "heads first", perm=[0, 3, 1, 2]),
    )
    graph.set_inputs(softmax, ["heads first"])
    assert attends(graph, softmax)
    fuse_softmax(graph, HEADS)
    assert not graph.of("MultiHeadAttention")
    assert sum(unfused(graph.finish()).values()) == 1
