"""A mask of keys as a bias on the scores of attention, for which a card has a fused kernel.

ONNX Runtime's CUDA provider runs MultiHeadAttention with a mask (rows, tokens) as two products and a softmax, between
which the scores go through the card's memory. With a bias (rows, 1, tokens, tokens) it is one kernel where rows are a
multiple of eight long, on every card since Ampere (`contrib_ops/cuda/bert/multihead_attention.cc`, version 1.27), and
right under any mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from untorch_export import graph
from untorch_export.precision import MASKED

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_MASK = "attention_mask"
# Places of MultiHeadAttention's inputs.
_KEY_MASK, _BIAS = 4, 5


def as_bias(half: ModelProto) -> ModelProto:
    """Give attention its mask as a bias, in place, in an fp16 model.

    Attention whose queries are not all of the tokens keeps its mask: the scores of a head's one query are few.
    """
    producers = {name: node for node in half.graph.node for name in node.output}
    found = [node for node in half.graph.node if _takes_a_mask(node) and _asks_for_all(node, producers)]
    if not found or _MASK not in {value.name for value in half.graph.input}:
        return half
    for node in found:
        node.input[:] = [*node.input[:_KEY_MASK], "", "mask.bias"]
    nodes = [*_bias(half), *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    graph.drop_unused(half.graph)
    return half


def _takes_a_mask(node: NodeProto) -> bool:
    names = [*node.input, "", "", "", ""]
    return node.op_type == "MultiHeadAttention" and bool(names[_KEY_MASK]) and not any(names[_BIAS:])


def _asks_for_all(node: NodeProto, producers: dict[str, NodeProto]) -> bool:
    """Whether queries and keys are made of the same tokens."""
    query, key = (producers.get(name) for name in node.input[:2])
    return query is not None and key is not None and query.input[0] == key.input[0]


def _bias(model: ModelProto) -> list[NodeProto]:
    """(rows, 1, tokens, tokens) in fp16: 0 for a key to look at, MASKED for padding."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    for name, value in (("mask.real", np.float16(0)), ("mask.lowest", np.float16(MASKED))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    for name, whole in (("mask.one", [1]), ("mask.axes", [1, 2])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(whole, np.int64), name))
    return [
        helper.make_node("Cast", [_MASK], ["mask.counts"], to=TensorProto.BOOL),
        helper.make_node("Where", ["mask.counts", "mask.real", "mask.lowest"], ["mask.keys"]),
        helper.make_node("Unsqueeze", ["mask.keys", "mask.axes"], ["mask.row"]),
        helper.make_node("Shape", [_MASK], ["mask.length"], start=1, end=2),
        helper.make_node("Concat", ["mask.one", "mask.one", "mask.length", "mask.one"], ["mask.square"], axis=0),
        helper.make_node("Expand", ["mask.row", "mask.square"], ["mask.bias"]),
    ]
