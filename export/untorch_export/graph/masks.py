"""A mask of keys as a bias on the scores of attention, for which a card has a fused kernel.

ONNX Runtime's CUDA provider runs MultiHeadAttention with a mask (rows, tokens) as two products and a softmax, between
which the scores go through the card's memory. With a bias (rows, 1, tokens, tokens) it is one kernel where rows are a
multiple of eight long, on every card since Ampere (`contrib_ops/cuda/bert/multihead_attention.cc`, version 1.27), and
right under any mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from untorch_export.graph import files
from untorch_export.graph.fp16 import MASKED

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Places of MultiHeadAttention's inputs.
_KEY_MASK, _BIAS = 4, 5


def as_bias(half: ModelProto) -> ModelProto:
    """Give attention its mask as a bias, in place, in an fp16 model. Layers that read one mask share one bias.

    Attention whose queries are not all of the tokens keeps its mask: the scores of a head's one query are few.
    """
    producers = {name: node for node in half.graph.node for name in node.output}
    made: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in half.graph.node:
        if _takes_a_mask(node) and _asks_for_all(node, producers):
            mask = node.input[_KEY_MASK]
            if (cast := producers.get(mask)) is not None and cast.op_type == "Cast":
                mask = cast.input[0]
            if mask not in made:
                made[mask] = f"{mask}.bias"
                nodes += _bias(mask, made[mask])
            node.input[:] = [*node.input[:_KEY_MASK], "", made[mask]]
        nodes.append(node)
    if made:
        _add_constants(half)
        del half.graph.node[:]
        half.graph.node.extend(nodes)
        files.drop_unused(half.graph)
    return half


def _takes_a_mask(node: NodeProto) -> bool:
    names = [*node.input, "", "", "", ""]
    return node.op_type == "MultiHeadAttention" and bool(names[_KEY_MASK]) and not any(names[_BIAS:])


def _asks_for_all(node: NodeProto, producers: dict[str, NodeProto]) -> bool:
    """Whether queries and keys are made of the same tokens."""
    query, key = (producers.get(name) for name in node.input[:2])
    return query is not None and key is not None and query.input[0] == key.input[0]


def _bias(mask: str, bias: str) -> list[NodeProto]:
    """(rows, 1, tokens, tokens) in fp16 from a mask (rows, tokens): 0 for a key to look at, MASKED for padding."""
    from onnx import TensorProto, helper

    real, keys, row, length, square = (f"{bias}.{part}" for part in ("real", "keys", "row", "length", "square"))
    return [
        helper.make_node("Cast", [mask], [real], to=TensorProto.BOOL),
        helper.make_node("Where", [real, "bias.none", "bias.masked"], [keys]),
        helper.make_node("Unsqueeze", [keys, "bias.axes"], [row]),
        helper.make_node("Shape", [mask], [length], start=1, end=2),
        helper.make_node("Concat", ["bias.one", "bias.one", length, "bias.one"], [square], axis=0),
        helper.make_node("Expand", [row, square], [bias]),
    ]


def _add_constants(model: ModelProto) -> None:
    from onnx import numpy_helper

    constants = {
        "bias.none": np.array(0, np.float16),
        "bias.masked": np.array(MASKED, np.float16),
        "bias.one": np.array([1], np.int64),
        "bias.axes": np.array([1, 2], np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
