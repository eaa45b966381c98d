"""What is done to a graph of PyTorch's exporter: the bundle's axis names, and what ONNX Runtime asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from untorch_export.graph import files
from untorch_export.graph.portable import expand_masks, expand_rotary_caches
from untorch_export.graph.rewriting import Graph, given
from untorch_export.graph.shapes import infer

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

Axes = Mapping[int, str]

# PyTorch's names for sizes that it does not know, alone or in a sum.
_SYMBOL = re.compile(r"\b[su]\d+\b")


def clean(model: ModelProto, inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> ModelProto:
    """A traced graph as the bundle has it.

    Axes get the names in `inputs` and `outputs`, inputs that nothing reads go, and rotary caches and masks get the
    axes that ONNX Runtime wants.
    """
    _name_axes(model.graph, {**inputs, **outputs})
    graph = Graph(model)
    graph.drop_unused()
    graph.inputs = [value for value in graph.inputs if graph.readers(value.name) or graph.gives(value.name)]
    _name_squeezed_axes(graph)
    return expand_masks(expand_rotary_caches(graph.finish()))


def _name_squeezed_axes(graph: Graph) -> None:
    """Have a Squeeze say which axes it takes away: those of one element for every text, not for a batch of one too."""
    open_ones = [
        item for item in graph.of("Squeeze") if not given(item, 1) and not graph.upstream(item.input[0], "Shape")
    ]
    shapes = infer(graph) if open_ones else {}
    for item in open_ones:
        shape = shapes.get(item.input[0])
        if shape and any(axis != 1 for axis in shape):
            axes = np.array([index for index, axis in enumerate(shape) if axis == 1], np.int64)
            graph.set_inputs(item, [item.input[0], graph.add_constant(f"{item.output[0]}.axes", axes)])


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
