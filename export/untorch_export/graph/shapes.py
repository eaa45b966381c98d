"""Shapes of the values inside a graph, as far as ONNX can tell them without running it."""

from __future__ import annotations

import onnx

from untorch_export.graph.rewriting import Graph

# The size of an axis: a number, a name, or None where it is not known.
Shape = tuple[int | str | None, ...]


def infer(graph: Graph) -> dict[str, Shape]:
    """The shapes of values by name; those of unknown rank are left out. Axes of the same name are equally long."""
    known = onnx.shape_inference.infer_shapes(graph.outline(), data_prop=True).graph
    shapes: dict[str, Shape] = {name: graph.shape(name) for name in graph.weights}
    for value in (*known.input, *known.value_info, *known.output):
        if value.type.tensor_type.HasField("shape"):
            axes = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(
                axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in axes
            )
    return shapes
