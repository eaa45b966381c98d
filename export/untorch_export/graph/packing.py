"""Padding removal: between the embeddings and the head, tokens alone instead of padded rows.

One gather makes a list of the tokens of all rows, packed attention knows where each row begins, and another gather puts
them back. By which indices, the host says: they are inputs of the graph (`untorch.ort.cuda.packing`). Packed attention
is ONNX Runtime's and runs on CUDA only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from untorch.ort.cuda.packing import INDICES, MASK, OFFSET, PLACES, STARTS, TOKENS
from untorch_export.graph.files import drop_unused, reads
from untorch_export.graph.head import ROW_BY_ROW

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Places of MultiHeadAttention's inputs.
_KEY_MASK, _BIAS = 4, 5


def pack(fused: ModelProto) -> ModelProto | None:
    """A new model without padding in its layers, or None where the architecture does not allow it.

    It does where every layer's attention looks at one mask of keys and adds nothing else to the scores. The new model
    takes the INDICES of `untorch.ort.cuda.packing` as well, and no mask, unless something else reads it.
    """
    import onnx
    from onnx import helper

    model = onnx.ModelProto()
    model.CopyFrom(fused)
    graph = model.graph
    attention = [node for node in graph.node if node.op_type == "MultiHeadAttention"]
    if not attention or not all(_packable(node) for node in attention):
        return None
    producers = {name: node for node in graph.node for name in node.output}
    first = producers.get(attention[0].input[0])
    if first is None or first.op_type != "MatMul" or MASK not in {value.name for value in graph.input}:
        return None
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    start = first.input[0]
    packed = {start: f"{start}.tokens"}  # name → name of its form without padding
    restored: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    nodes: list[NodeProto] = []

    def restore(name: str) -> str:
        if name == start:
            return name
        if name not in restored:
            restored[name] = name if name in outputs else f"{name}.padded"
            nodes.append(helper.make_node("Gather", [packed[name], PLACES], [restored[name]], axis=0))
        return restored[name]

    for node in graph.node:
        if node.op_type == "MultiHeadAttention" and all(name in packed for name in node.input[:3]):
            nodes.append(_packed_attention(node, packed))
            packed[node.output[0]] = nodes[-1].output[0]
        elif packed.keys() & set(node.input) and _by_tokens(node, packed.keys(), constants):
            node.input[:] = [packed.get(name, name) for name in node.input]
            for place, name in enumerate(list(node.output)):
                packed[name] = node.output[place] = f"{name}.tokens" if name else ""
            nodes.append(node)
        else:
            node.input[:] = [restore(name) if name in packed else name for name in node.input]
            nodes.append(node)
        if start in node.output:
            nodes += _tokens_of(start)
    for name in outputs & packed.keys():
        restore(name)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    drop_unused(graph)
    _take_indices(graph)
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _packable(node: NodeProto) -> bool:
    names = [*node.input, *[""] * 8]
    causal = any(a.name == "unidirectional" and a.i for a in node.attribute)
    return all(names[:3]) and bool(names[_KEY_MASK]) and not any(names[_BIAS:]) and not causal


def _by_tokens(node: NodeProto, packed: object, constants: set[str]) -> bool:
    """Whether a node treats tokens one by one, so that it may as well have them in a list."""
    names = [name for name in node.input if name]
    if node.op_type == "MatMul":
        return names[0] in packed and names[1] in constants  # type: ignore[operator]  # a view of a dictionary's keys
    return node.op_type in ROW_BY_ROW and all(name in packed or name in constants for name in names)  # type: ignore[operator]


def _packed_attention(node: NodeProto, packed: dict[str, str]) -> NodeProto:
    from onnx import helper

    query, key, value = (packed[name] for name in node.input[:3])
    made = helper.make_node(
        "PackedMultiHeadAttention",
        [query, key, value, node.input[3], OFFSET, STARTS],
        [f"{node.output[0]}.tokens"],
        domain="com.microsoft",
    )
    made.attribute.extend(a for a in node.attribute if a.name in ("num_heads", "scale", "mask_filter_value"))
    return made


def _tokens_of(start: str) -> list[NodeProto]:
    """From rows (rows, sequence, hidden) to the list of their tokens (tokens, hidden)."""
    from onnx import helper

    return [
        helper.make_node("Flatten", [start], [f"{start}.flat"], axis=2),
        helper.make_node("Gather", [f"{start}.flat", TOKENS], [f"{start}.tokens"], axis=0),
    ]


def _take_indices(graph: GraphProto) -> None:
    """Declare the indices as inputs, and the mask no longer if nothing reads it."""
    from onnx import TensorProto, helper

    read = {name for node in graph.node for name in reads(node)}
    kept = [value for value in graph.input if value.name != MASK or MASK in read]
    del graph.input[:]
    graph.input.extend(kept)
    graph.input.extend(helper.make_tensor_value_info(t.name, TensorProto.INT32, t.axes) for t in INDICES)
