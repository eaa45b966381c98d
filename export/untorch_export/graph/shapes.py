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
    reshapes = [(item.input[0], item.output[0], _open_axis(graph, item)) for item in graph.of("Reshape")]
    for _ in range(_ROUNDS):
        shapes = _inferred(model)
        found = {
            result: _filled(shapes[source], shapes[result], axis)
            for source, result, axis in reshapes
            if axis is not None and source in shapes and None in shapes.get(result, ())
        }
        found = {name: shape for name, shape in found.items() if shape != shapes[name]}
        if not found:
            break
        _state(model, found)
    return shapes | {name: graph.shape(name) for name in graph.weights}


def _open_axis(graph: Graph, reshape: onnx.NodeProto) -> int | None:
    """Which axis a Reshape leaves open, counted from the first; None where it cannot be told."""
    wanted = reshape.input[1]
    parts = graph.upstream(wanted, "Concat")
    sizes: list[int] = []
    for name in parts[0].input if parts else [wanted]:
        # A part that is not known is one axis, since exporters take sizes one by one.
        sizes += graph.constant(name).ravel().tolist() if graph.is_constant(name) else [0]
    return sizes.index(-1) if sizes.count(-1) == 1 else None


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


def _filled(source: Shape, shape: Shape, place: int) -> Shape:
    """`shape` with the open axis at a place filled in, where the shape that it is made from says how long it is.

    Axes before it whose length is not known are taken to be those that the source has there.
    """
    if 0 in source or 0 in shape or place >= len(shape):
        return shape
    before = source[: min(place, len(source))]
    kept = [f"?{index}" if axis is None else axis for index, axis in enumerate(before)]
    source = (*kept, *source[len(kept) :])
    others = [*shape]
    del others[place]
    for index, axis in enumerate(others[: len(kept)]):
        others[index] = kept[index] if axis is None else axis
        if axis is not None and before[index] is None:
            source = (*source[:index], axis, *source[index + 1 :])
    if None in source or None in others:
        return shape
    named, taken = (Counter(axis for axis in axes if isinstance(axis, str)) for axes in (source, others))
    left, missing = list((named - taken).elements()), taken - named
    size, rest = divmod(_product(source), _product(tuple(others)))
    if missing or rest or len(left) > 1 or (left and (size > 1 or left[0].startswith("?"))):
        return shape
    return (*shape[:place], left[0] if left else size, *shape[place + 1 :])


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
