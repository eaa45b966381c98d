"""fp16: half the bytes and several times the rate on a GPU, in a graph that holds under any mask.

What could overflow half precision (65504) is kept from it. Masks are added to attention scores as the most negative
number of fp32, and two of those make an infinity in fp16, of which a row of padding would make NaN: they become a
number that is large enough and can be added up. Powers and means, of which an unfused layer norm is made, stay in
fp32, and so do positions on their way to angles (fp16 has no whole number between 2048 and 2050) or to other whole
numbers, such as the distance by which a bias is looked up. ONNX Runtime's own LayerNormalization, softmax and attention
sum in fp32 inside.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx
from onnx import TensorProto, helper

from untorch_export.graph.rewriting import CONTRIB, Graph, attribute, node

# What a masked score is lowered by. Its exponential is 0 beside any real score, and three of them fit in fp16.
MASKED = -20000.0
# A constant below this can only be a mask.
_MASK_BELOW = -30000.0

# Operators on the way from positions to angles, or to other whole numbers.
_STEPS = (
    "Abs", "Add", "Cast", "Ceil", "Concat", "Constant", "Div", "Expand", "Floor", "Log", "MatMul", "Max", "Min", "Mul",
    "Neg", "Reshape", "Round", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip
_ANGLES = ("Sin", "Cos")

# Operators whose results can be far larger than what goes in and comes out in the end.
_FP32 = ("Pow", "ReduceMean", "ReduceSum", "ReduceL2", "Sqrt", "Reciprocal", "Softmax", "LogSoftmax")


def to_fp16(fused: onnx.ModelProto) -> onnx.ModelProto:
    """A new model that computes in fp16 what `fused` does in fp32. Its inputs and outputs keep their types."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    graph = Graph(fused)
    _soften_masks(graph)
    for position, item in enumerate(graph.nodes):  # nodes are told apart by their names from here on
        item.name = item.name or f"{item.op_type}.{position}"
    blocked = {*DEFAULT_OP_BLOCK_LIST, *_FP32, *_ANGLES}
    kept = [*_between(graph, blocked), *_from_positions(graph)]
    model = graph.finish()
    _annotate(model)
    converted = Graph(
        convert_float_to_float16(model, keep_io_types=True, op_block_list=list(blocked), node_block_list=kept)
    )
    _join_casts(converted)
    converted.drop_unused()
    converted.sort()
    return converted.finish()


def take_int32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new model that takes its ids and masks as int32: half the bytes to copy, and the type attention wants.

    Operators that want int64 get it from one cast. An input that a branch or a loop reads keeps its type.
    """
    graph = Graph(model)
    for value in graph.inputs:
        name, wide = value.name, f"{value.name}.int64"
        readers = graph.readers(name)
        if value.type.tensor_type.elem_type != TensorProto.INT64 or any(name not in item.input for item in readers):
            continue
        value.type.tensor_type.elem_type = TensorProto.INT32
        for item in readers:
            if _casts_to(item, TensorProto.INT32):
                graph.redirect(item.output[0], name)
            elif not _takes_int32(item, name):
                graph.set_inputs(item, [wide if given == name else given for given in item.input])
        if graph.readers(wide):
            graph.prepend(node("Cast", [name], wide, to=TensorProto.INT64))
    graph.drop_unused()
    return graph.finish()


def _takes_int32(item: onnx.NodeProto, name: str) -> bool:
    """Whether a node that reads `name` takes int32 for it as well, and gives the same as for int64."""
    return item.op_type in ("Shape", "Cast") or (item.op_type == "Gather" and item.input[0] != name)


def _casts_to(item: onnx.NodeProto, kind: int) -> bool:
    return item.op_type == "Cast" and attribute(item, "to", None) == kind


def _soften_masks(graph: Graph) -> None:
    """Raise what masks add to the scores from fp32's lowest number to MASKED."""
    constants = [item.output[0] for item in graph.of("Constant") if graph.is_constant(item.output[0])]
    for name in (*graph.weights, *constants):
        values = graph.constant(name)
        if values.dtype == np.float32 and values.size and values.min() < _MASK_BELOW:
            graph.set_constant(name, np.where(values < _MASK_BELOW, np.float32(MASKED), values))
    for item in graph.of("ConstantOfShape"):
        filled = attribute(item, "value", None)
        if filled is not None and filled.data_type == TensorProto.FLOAT:
            value = onnx.numpy_helper.to_array(filled)
            if value.min() < _MASK_BELOW:
                item.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.full_like(value, MASKED)))


def _between(graph: Graph, blocked: Container[str]) -> list[str]:
    """Names of nodes that lie between operators which stay in fp32, such as what is added to a variance."""
    inside = {item.name for item in graph.nodes if item.op_type in blocked}
    names = []
    for item in graph.nodes:
        producers = [made_by for name in item.input if (made_by := graph.producer(name)) is not None]
        above = {made_by.name for made_by in producers if made_by.op_type != "Constant"}
        below = {reader.name for name in item.output for reader in graph.readers(name)}
        if item.name not in inside and above and below and above <= inside and below <= inside:
            inside.add(item.name)
            names.append(item.name)
    return names


def _from_positions(graph: Graph) -> list[str]:
    """Names of nodes on the way to an angle or to a whole number, which half precision would change."""
    whole = (TensorProto.INT32, TensorProto.INT64)
    ends = [n for n in graph.nodes if n.op_type in _ANGLES or any(_casts_to(n, kind) for kind in whole)]
    found: set[str] = set()
    while ends:
        for item in filter(None, map(graph.producer, ends.pop().input)):
            if item.op_type in _STEPS and item.name not in found:
                found.add(item.name)
                ends.append(item)
    return sorted(found)


def _join_casts(graph: Graph) -> None:
    """Let fp32 operators that follow one another hand on fp32: the conversion puts fp16 between any two."""
    for back in graph.of("Cast"):
        half = graph.producer(back.input[0])
        if half is None or not half.name.endswith("_cast_to_fp16_node"):
            continue
        if back.name.endswith("_cast_to_fp32_node"):
            graph.redirect(back.output[0], half.input[0])


def _annotate(model: onnx.ModelProto) -> None:
    """State the type of what ONNX Runtime's own operators give, which ONNX's inference does not know."""
    known = {value.name for value in model.graph.output}
    for item in model.graph.node:
        if item.domain == CONTRIB and item.output[0] not in known:
            model.graph.value_info.append(helper.make_tensor_value_info(item.output[0], TensorProto.FLOAT, None))
