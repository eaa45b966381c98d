"""What is done to a graph of PyTorch's exporter: the bundle's axis names, and what ONNX Runtime asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from untorch_export.graph import files

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

Axes = Mapping[int, str]

# PyTorch's names for sizes that it does not know, alone or in a sum.
_SYMBOL = re.compile(r"\b[su]\d+\b")


def clean(model: ModelProto, inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> None:
    """Make a traced graph the bundle's, in place.

    Axes get the names in `inputs` and `outputs`, inputs that nothing reads go, and rotary caches get the batch axis
    that ONNX Runtime wants.
    """
    graph = model.graph
    _name_axes(graph, {**inputs, **outputs})
    _expand_rotary_caches(graph)
    files.drop_unused(graph)
    read = {name for node in graph.node for name in files.reads(node)} | {value.name for value in graph.output}
    kept = [value for value in graph.input if value.name in read]
    del graph.input[:]
    graph.input.extend(kept)
    del graph.value_info[:]


def _name_axes(graph: GraphProto, names: Mapping[str, Axes]) -> None:
    """PyTorch names an axis once for every input that has it, and by numbers; a size may be a sum of others."""
    known = {
        axis: names[value.name][index]
        for value in graph.input
        for index, axis in enumerate(_axes(value))
        if isinstance(axis, str) and _SYMBOL.fullmatch(axis) and index in names[value.name]
    }

    def renamed(axis: str | int) -> str | int:
        return axis if isinstance(axis, int) else _SYMBOL.sub(lambda found: known.get(found[0], found[0]), axis)

    for value in (*graph.input, *graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            given = names.get(value.name, {})
            files.set_shape(value, tuple(given.get(index) or renamed(axis) for index, axis in enumerate(_axes(value))))


def _axes(value: ValueInfoProto) -> Iterator[str | int]:
    for dimension in value.type.tensor_type.shape.dim:
        yield dimension.dim_param or dimension.dim_value


def _expand_rotary_caches(graph: GraphProto) -> None:
    """Give cosines and sines of one row as many rows as there are in what they turn.

    The standard lets them be broadcast; ONNX Runtime 1.32 refuses that on the CPU.
    """
    from onnx import helper

    ones = _ones(graph)
    rows = {value.name: next(_axes(value), 0) for value in graph.value_info}
    nodes: list[NodeProto] = []
    expanded: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "RotaryEmbedding" and len(node.input) == 3:
            for place, cache in enumerate(node.input[1:], 1):
                if rows.get(cache, 1) != 1:
                    continue
                if cache not in expanded:
                    shape, target = f"{cache}.rows", f"{cache}.shape"
                    expanded[cache] = f"{cache}.expanded"
                    nodes += [
                        helper.make_node("Shape", [node.input[0]], [shape], f"{cache}/rows", start=0, end=1),
                        helper.make_node("Concat", [shape, ones, ones], [target], f"{cache}/shape", axis=0),
                        helper.make_node("Expand", [cache, target], [expanded[cache]], f"{cache}/expanded"),
                    ]
                node.input[place] = expanded[cache]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _ones(graph: GraphProto) -> str:
    """The name of a constant [1]."""
    from onnx import TensorProto, helper

    name = "one"
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [1]))
    return name
