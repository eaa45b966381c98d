"""Shapes of the values inside a graph, as far as they can be told without running it."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import TensorProto, helper

from untorch_export.graph.rewriting import Graph

# The size of an axis: a number, a name, or None where it is not known. Axes of the same name are equally long.
Shape = tuple[int | str | None, ...]

# What one round finds out, the next goes on from. Three are enough for what exporters write.
_ROUNDS = 4


def infer(graph: Graph) -> dict[str, Shape]:
    """The shapes of values by name; those whose number of axes is not known are left out.

    ONNX's own inference does not tell how long the axis is that a Reshape leaves open (-1) where other axes have names.
    It is what is left when the equal ones are crossed out: (batch, sequence, 768) as (batch, sequence, -1, 64) has 12.
    """
    model = graph.outline()
    reshapes = graph.of("Reshape")
    for _ in range(_ROUNDS):
        shapes = _inferred(model)
        open_axes = [item for item in reshapes if None in shapes.get(item.output[0], ())]
        found = {item.output[0]: _filled(shapes.get(item.input[0]), shapes[item.output[0]]) for item in open_axes}
        found = {name: shape for name, shape in found.items() if shape != shapes[name]}
        if not found:
            break
        _state(model, found)
    return shapes | {name: graph.shape(name) for name in graph.weights}


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else _name(axis.dim_param)
            for axis in value.type.tensor_type.shape.dim
        )
        for value in (*known.input, *known.value_info, *known.output)
        if value.type.tensor_type.HasField("shape")
    }


def _name(axis: str) -> str | None:
    """An axis's name, or None where the inference made it up."""
    return axis if axis and not axis.startswith("unk__") else None


def _filled(source: Shape | None, shape: Shape) -> Shape:
    """`shape` with its only open axis filled in, where the shape that it is made from says how long it is.

    Axes of the source whose length is not known are taken to be those that the Reshape leaves where they are.
    """
    if source is None or shape.count(None) != 1 or 0 in source or 0 in shape:
        return shape
    same_place = [*shape, *[None] * len(source)]
    source = tuple(other if axis is None else axis for axis, other in zip(source, same_place, strict=False))
    if None in source:
        return shape
    named, others = (Counter(axis for axis in axes if isinstance(axis, str)) for axes in (source, shape))
    left, missing = list((named - others).elements()), others - named
    size, rest = divmod(_product(source), _product(shape))
    if missing or rest or len(left) > 1 or (left and size > 1):
        return shape
    return tuple((left[0] if left else size) if axis is None else axis for axis in shape)


def _product(shape: Shape) -> int:
    result = 1
    for axis in shape:
        result *= axis if isinstance(axis, int) else 1
    return result


def _state(model: onnx.ModelProto, shapes: dict[str, Shape]) -> None:
    """Write shapes into a model, from which the inference goes on."""
    stated = {value.name: value for value in model.graph.value_info}
    for name, shape in shapes.items():
        if name in stated:
            model.graph.value_info.remove(stated[name])
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
