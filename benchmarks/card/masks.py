"""The fp16 graph with its mask given to attention in another form. On a card the form decides which kernel runs.

ONNX Runtime's MultiHeadAttention takes a mask of keys (rows, tokens), with which the CUDA provider multiplies, masks
and multiplies again; lengths (rows,), with which it has fused kernels, right for padding on the right only; or a bias
(rows, 1, tokens, tokens), right under any mask, with which its memory-efficient kernel runs where rows are a multiple
of eight long. Without any, flash attention runs, right where nothing is padded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FORMS = ("lengths", "bias", "none")
_KEY_MASK, _BIAS = 4, 5


def write(bundle: Path, form: str) -> str:
    """Write `model_fp16_FORM.onnx` beside the fp16 graph, whose weights it shares, and give the precision's name."""
    import onnx

    precision = f"fp16_{form}"
    target = bundle / "onnx" / f"model_{precision}.onnx"
    if not target.exists():
        model = onnx.load(str(bundle / "onnx/model_fp16.onnx"), load_external_data=False)
        target.write_bytes(reform(model, form).SerializeToString())
    return precision


def reform(model: ModelProto, form: str) -> ModelProto:
    """The model, changed in place. Raises ValueError if it has no attention with a mask of keys."""
    found = [node for node in model.graph.node if node.op_type == "MultiHeadAttention" and len(node.input) > _KEY_MASK]
    if not found:
        raise ValueError("the graph has no MultiHeadAttention with a mask of keys")
    for node in found:
        inputs = [*node.input[:_KEY_MASK], "", ""]
        if form == "lengths":
            inputs[_KEY_MASK] = "mask.lengths"
        elif form == "bias":
            inputs[_BIAS] = "mask.bias"
        while not inputs[-1]:
            inputs.pop()
        node.input[:] = inputs
    added = {"lengths": _lengths, "bias": _bias, "none": lambda model: []}[form](model)
    nodes = [*added, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _lengths(model: ModelProto) -> list[NodeProto]:
    from onnx import TensorProto, helper

    _constants(model)
    ones = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    return [
        helper.make_node("Cast", ["attention_mask"], ["mask.float"], to=TensorProto.FLOAT),
        helper.make_node("Shape", ["attention_mask"], ["mask.size"], start=1, end=2),
        helper.make_node("Concat", ["mask.size", "mask.one"], ["mask.column"], axis=0),
        helper.make_node("ConstantOfShape", ["mask.column"], ["mask.ones"], value=ones),
        helper.make_node("MatMul", ["mask.float", "mask.ones"], ["mask.sums"]),
        helper.make_node("Reshape", ["mask.sums", "mask.flat"], ["mask.counts"]),
        helper.make_node("Cast", ["mask.counts"], ["mask.lengths"], to=TensorProto.INT32),
    ]


def _bias(model: ModelProto) -> list[NodeProto]:
    from onnx import TensorProto, helper

    from untorch_export.precision import MASKED

    _constants(model)
    for name, value in (("mask.whole", 1.0), ("mask.lowest", MASKED)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT16, [], [value]))
    return [
        helper.make_node("Cast", ["attention_mask"], ["mask.half"], to=TensorProto.FLOAT16),
        helper.make_node("Sub", ["mask.whole", "mask.half"], ["mask.off"]),
        helper.make_node("Mul", ["mask.off", "mask.lowest"], ["mask.keys"]),
        helper.make_node("Unsqueeze", ["mask.keys", "mask.axes"], ["mask.row"]),
        helper.make_node("Shape", ["attention_mask"], ["mask.size"], start=1, end=2),
        helper.make_node("Concat", ["mask.one", "mask.one", "mask.size", "mask.one"], ["mask.shape"], axis=0),
        helper.make_node("Expand", ["mask.row", "mask.shape"], ["mask.bias"]),
    ]


def _constants(model: ModelProto) -> None:
    from onnx import TensorProto, helper

    for name, values in (("mask.one", [1]), ("mask.flat", [-1]), ("mask.axes", [1, 2])):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
