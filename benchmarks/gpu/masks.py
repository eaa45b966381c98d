"""The fp16 graph with its mask given to attention in another form. On a card the form decides which kernel runs.

The fp16 graph has a bias (rows, 1, tokens, tokens), right under any mask (`untorch_export/masks.py` says why). Others:
a mask of keys (rows, tokens), with which the CUDA provider multiplies, masks and multiplies again; lengths (rows,),
right for padding on the right, for which Hopper has cuDNN's kernel alone; none, right where nothing is padded, with
which flash attention runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FORMS = ("keys", "lengths", "none")
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
    """The model, changed in place. Raises ValueError if it has no attention with a bias."""
    from untorch_export.graph.files import drop_unused

    found = [node for node in model.graph.node if node.op_type == "MultiHeadAttention" and len(node.input) > _BIAS]
    if not found:
        raise ValueError("the graph has no MultiHeadAttention with a bias")
    for node in found:
        node.input[:] = [*node.input[:_KEY_MASK], *([] if form == "none" else [f"form.{form}"])]
        while not node.input[-1]:
            node.input.pop()
    added = {"keys": _keys, "lengths": _lengths, "none": lambda model: []}[form](model)
    nodes = [*added, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused(model.graph)
    return model


def _keys(model: ModelProto) -> list[NodeProto]:
    from onnx import TensorProto, helper

    return [helper.make_node("Cast", ["attention_mask"], ["form.keys"], to=TensorProto.INT32)]


def _lengths(model: ModelProto) -> list[NodeProto]:
    from onnx import TensorProto, helper

    _constants(model)
    ones = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    return [
        helper.make_node("Cast", ["attention_mask"], ["form.float"], to=TensorProto.FLOAT),
        helper.make_node("Shape", ["attention_mask"], ["form.size"], start=1, end=2),
        helper.make_node("Concat", ["form.size", "form.first"], ["form.column"], axis=0),
        helper.make_node("ConstantOfShape", ["form.column"], ["form.ones"], value=ones),
        helper.make_node("MatMul", ["form.float", "form.ones"], ["form.sums"]),
        helper.make_node("Reshape", ["form.sums", "form.flat"], ["form.counts"]),
        helper.make_node("Cast", ["form.counts"], ["form.lengths"], to=TensorProto.INT32),
    ]


def _constants(model: ModelProto) -> None:
    from onnx import TensorProto, helper

    for name, values in (("form.first", [1]), ("form.flat", [-1])):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
