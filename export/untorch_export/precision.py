"""fp16: half the bytes and several times the rate on a card, in a graph that holds under any mask.

What could overflow half precision (65504) is kept from it. Masks are added to attention scores as the most negative
number of fp32, and two of those make an infinity in fp16, of which a row of padding would make NaN: they become a
number that is large enough and can be added up. Powers and means, of which an unfused layer norm is made, stay in
fp32. ONNX Runtime's own LayerNormalization, softmax and attention sum in fp32 inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from untorch_export import graph

if TYPE_CHECKING:
    from onnx import ModelProto

# What a masked score is lowered by. Its exponential is 0 beside any real score, and three of them fit in fp16.
MASKED = -20000.0
# A constant below this can only be a mask.
_MASK_BELOW = -30000.0

# Operators whose results can be far larger than what goes in and comes out in the end.
_FP32 = ("Pow", "ReduceMean", "ReduceSum", "ReduceL2", "Sqrt", "Reciprocal", "Softmax", "LogSoftmax")


def to_fp16(fused: ModelProto) -> ModelProto:
    """A new model that computes in fp16 what `fused` does in fp32. Its inputs and outputs keep their types."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.ModelProto()
    model.CopyFrom(fused)
    _soften_masks(model)
    _annotate(model)
    blocked = [*DEFAULT_OP_BLOCK_LIST, *_FP32]
    converted = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=blocked, node_block_list=_between(model, blocked)
    )
    _join_casts(converted)
    OnnxModel(converted).topological_sort()
    graph.drop_unused(converted.graph)
    del converted.graph.value_info[:]
    return converted


def _soften_masks(model: ModelProto) -> None:
    """Raise what masks add to the scores from fp32's lowest number to MASKED."""
    from onnx import TensorProto, numpy_helper

    constants = [node.attribute[0].t for node in model.graph.node if node.op_type in ("Constant", "ConstantOfShape")]
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size and values.min() < _MASK_BELOW:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(np.where(values < _MASK_BELOW, MASKED, values).astype("f4"), name))


def _between(model: ModelProto, blocked: list[str]) -> list[str]:
    """Names of nodes that lie between operators which stay in fp32, such as what is added to a variance."""
    for position, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}.{position}"
    producers = {name: node for node in model.graph.node if node.op_type != "Constant" for name in node.output}
    inside = {node.name for node in model.graph.node if node.op_type in blocked}
    names = []
    for node in model.graph.node:
        made_by = {producers[name].name for name in node.input if name in producers}
        readers = {other.name for other in model.graph.node if set(node.output) & set(other.input)}
        if node.name not in inside and made_by and readers and made_by <= inside and readers <= inside:
            inside.add(node.name)
            names.append(node.name)
    return names


def _join_casts(model: ModelProto) -> None:
    """Let fp32 operators that follow one another hand on fp32: the conversion puts fp16 between any two."""
    halves = {node.output[0]: node.input[0] for node in model.graph.node if node.name.endswith("_cast_to_fp16_node")}
    wholes = {
        node.output[0]: halves[node.input[0]]
        for node in model.graph.node
        if node.name.endswith("_cast_to_fp32_node") and node.input[0] in halves
    }
    for node in model.graph.node:
        node.input[:] = [wholes.get(name, name) for name in node.input]


def _annotate(model: ModelProto) -> None:
    """State the type of what ONNX Runtime's own operators give, which ONNX's inference does not know."""
    from onnx import TensorProto, helper

    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        if node.domain == "com.microsoft" and node.output[0] not in known:
            model.graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None))
