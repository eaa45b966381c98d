"""fp16: half the bytes and several times the rate on a card, in a graph that holds under any mask.

What could overflow half precision (65504) is kept from it. Masks are added to attention scores as the most negative
number of fp32, and two of those make an infinity in fp16, of which a row of padding would make NaN: they become a
number that is large enough and can be added up. Powers and means, of which an unfused layer norm is made, stay in
fp32, and so do positions on their way to angles (fp16 has no whole number between 2048 and 2050) or to other whole
numbers, such as the distance by which a bias is looked up. ONNX Runtime's own LayerNormalization, softmax and attention
sum in fp32 inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from untorch_export.graph import files

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

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


def to_fp16(fused: ModelProto) -> ModelProto:
    """A new model that computes in fp16 what `fused` does in fp32. Its inputs and outputs keep their types."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.ModelProto()
    model.CopyFrom(fused)
    _soften_masks(model)
    _annotate(model)
    for position, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}.{position}"
    blocked = [*DEFAULT_OP_BLOCK_LIST, *_FP32, *_ANGLES]
    converted = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=blocked,
        node_block_list=[*_between(model, blocked), *_from_positions(model)],
    )
    _join_casts(converted)
    OnnxModel(converted).topological_sort()
    files.drop_unused(converted.graph)
    del converted.graph.value_info[:]
    return converted


def take_int32(model: ModelProto) -> ModelProto:
    """Let a model take its ids and masks as int32, in place: half the bytes to copy, and the type attention wants.

    Operators that want int64 get it from one cast. An input that a branch or a loop reads keeps its type.
    """
    from onnx import TensorProto, helper

    casts: list[NodeProto] = []
    for value in model.graph.input:
        name, wide = value.name, f"{value.name}.int64"
        readers = [node for node in model.graph.node if name in files.reads(node)]
        if value.type.tensor_type.elem_type != TensorProto.INT64 or any(name not in node.input for node in readers):
            continue
        value.type.tensor_type.elem_type = TensorProto.INT32
        for node in readers:
            if _casts_to(node, TensorProto.INT32):
                _rename(model, node.output[0], name)
            elif not _takes_int32(node, name):
                node.input[:] = [wide if given == name else given for given in node.input]
                if wide not in {cast.output[0] for cast in casts}:
                    casts.append(helper.make_node("Cast", [name], [wide], to=TensorProto.INT64))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    files.drop_unused(model.graph)
    return model


def _takes_int32(node: NodeProto, name: str) -> bool:
    """Whether a node that reads `name` takes int32 for it as well, and gives the same as for int64."""
    return node.op_type in ("Shape", "Cast") or (node.op_type == "Gather" and node.input[0] != name)


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == kind


def _rename(model: ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


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


def _from_positions(model: ModelProto) -> list[str]:
    """Names of nodes on the way to an angle or to a whole number, which half precision would change."""
    from onnx import TensorProto

    producers = {name: node for node in model.graph.node for name in node.output}
    whole = (TensorProto.INT32, TensorProto.INT64)
    ends = [n for n in model.graph.node if n.op_type in _ANGLES or any(_casts_to(n, kind) for kind in whole)]
    found: set[str] = set()
    while ends:
        for node in filter(None, map(producers.get, ends.pop().input)):
            if node.op_type in _STEPS and node.name not in found:
                found.add(node.name)
                ends.append(node)
    return sorted(found)


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
