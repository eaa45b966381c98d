"""Padding removal: between the embeddings and the head, tokens alone instead of padded rows.

`RemovePadding` gathers the tokens of all rows into one list, packed attention knows where each row begins, and
`RestorePadding` puts them back. These operators are ONNX Runtime's and run on CUDA only. Rows must be padded on the
right: what is gathered is as many tokens from each row's start as its mask counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from untorch_export.graph import drop_unused
from untorch_export.prune import ROW_BY_ROW

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_MASK = "attention_mask"
_OFFSET, _STARTS = "packing.token_offset", "packing.cumulative_length"
# Places of MultiHeadAttention's inputs.
_KEY_MASK, _BIAS = 4, 5


def pack(fused: ModelProto) -> ModelProto | None:
    """A new model without padding in its layers, or None where the architecture does not allow it.

    It does where every layer's attention looks at one mask of keys and adds nothing else to the scores.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(fused)
    graph = model.graph
    attention = [node for node in graph.node if node.op_type == "MultiHeadAttention"]
    if not attention or not all(_packable(node) for node in attention):
        return None
    producers = {name: node for node in graph.node for name in node.output}
    first = producers.get(attention[0].input[0])
    if first is None or first.op_type != "MatMul" or _MASK not in {value.name for value in graph.input}:
        return None
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    start = first.input[0]
    packed = {start: "packing.tokens"}  # name → name of its form without padding
    restored: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    nodes: list[NodeProto] = []

    def restore(name: str) -> str:
        if name == start:
            return name
        if name not in restored:
            restored[name] = name if name in outputs else f"{name}.padded"
            nodes.append(_node("RestorePadding", [packed[name], _OFFSET], [restored[name]]))
        return restored[name]

    for node in graph.node:
        reads = [name for name in node.input if name in packed]
        if node.op_type == "MultiHeadAttention" and all(name in packed for name in node.input[:3]):
            nodes.append(_packed_attention(node, packed))
            packed[node.output[0]] = nodes[-1].output[0]
        elif reads and _by_tokens(node, packed.keys(), constants):
            node.input[:] = [packed.get(name, name) for name in node.input]
            for place, name in enumerate(list(node.output)):
                packed[name] = node.output[place] = f"{name}.tokens" if name else ""
            nodes.append(node)
        else:
            node.input[:] = [restore(name) if name in packed else name for name in node.input]
            nodes.append(node)
        if start in node.output:
            nodes += _remove_padding(start)
    for name in outputs & packed.keys():
        restore(name)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "packing.one"))
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "packing.flat"))
    del graph.value_info[:]
    drop_unused(graph)
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _packable(node: NodeProto) -> bool:
    names = [*node.input, *[""] * 8]
    return all(names[:3]) and bool(names[_KEY_MASK]) and not any(names[_BIAS:])


def _by_tokens(node: NodeProto, packed: object, constants: set[str]) -> bool:
    """Whether a node treats tokens one by one, so that it may as well have them in a list."""
    names = [name for name in node.input if name]
    if node.op_type == "MatMul":
        return names[0] in packed and names[1] in constants  # type: ignore[operator]  # a view of a dictionary's keys
    return node.op_type in ROW_BY_ROW and all(name in packed or name in constants for name in names)  # type: ignore[operator]


def _packed_attention(node: NodeProto, packed: dict[str, str]) -> NodeProto:
    query, key, value = (packed[name] for name in node.input[:3])
    made = _node(
        "PackedMultiHeadAttention",
        [query, key, value, node.input[3], _OFFSET, _STARTS],
        [f"{node.output[0]}.tokens"],
    )
    made.attribute.extend(a for a in node.attribute if a.name in ("num_heads", "scale", "mask_filter_value"))
    return made


def _remove_padding(start: str) -> list[NodeProto]:
    """Count each row's tokens and gather them.

    The sum is a product with ones: a card's reductions want cuDNN, which nothing else here needs.
    """
    from onnx import TensorProto, helper

    ones = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    return [
        helper.make_node("Cast", [_MASK], ["packing.mask"], to=TensorProto.FLOAT),
        helper.make_node("Shape", [_MASK], ["packing.length"], start=1, end=2),
        helper.make_node("Concat", ["packing.length", "packing.one"], ["packing.column"], axis=0),
        helper.make_node("ConstantOfShape", ["packing.column"], ["packing.ones"], value=ones),
        helper.make_node("MatMul", ["packing.mask", "packing.ones"], ["packing.sums"]),
        helper.make_node("Reshape", ["packing.sums", "packing.flat"], ["packing.counts"]),
        helper.make_node("Cast", ["packing.counts"], ["packing.counts_int32"], to=TensorProto.INT32),
        _node(
            "RemovePadding",
            [start, "packing.counts_int32"],
            ["packing.tokens", _OFFSET, _STARTS, "packing.longest"],
        ),
    ]


def _node(kind: str, inputs: list[str], outputs: list[str]) -> NodeProto:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, domain="com.microsoft")
