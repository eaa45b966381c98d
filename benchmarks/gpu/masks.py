"""The fp16 graph with its mask given to attention in another form. On a GPU the form decides which kernel runs.

The fp16 graph has a bias (rows, 1, tokens, tokens), right under any mask (`untorch_export.graph.masks` says why). The
others: a mask of keys (rows, tokens), with which the CUDA provider multiplies, masks and multiplies again; lengths
(rows,), right for padding on the right, for which Hopper has cuDNN's kernel alone; none, right where nothing is padded,
with which flash attention runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from untorch_export.graph.rewriting import Graph

FORMS = ("keys", "lengths", "none")


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
    """A new model. Raises ValueError if the old one has no attention with a bias."""
    from dataclasses import replace

    from untorch_export.graph.attention import fused, read
    from untorch_export.graph.rewriting import Graph

    graph = Graph(model)
    found = [(item, layer) for item in graph.nodes if (layer := read(item)) is not None and layer.added]
    if not found:
        raise ValueError("the graph has no MultiHeadAttention with a bias")
    for item, layer in found:
        graph.replace(item, [fused(replace(layer, added="", key_mask="" if form == "none" else f"form.{form}"))])
    graph.prepend(*{"keys": _keys, "lengths": _lengths, "none": lambda graph: []}[form](graph))
    graph.drop_unused()
    return graph.finish()


def _keys(graph: Graph) -> list[NodeProto]:
    from onnx import TensorProto, helper

    return [helper.make_node("Cast", ["attention_mask"], ["form.keys"], to=TensorProto.INT32)]


def _lengths(graph: Graph) -> list[NodeProto]:
    import numpy as np
    from onnx import TensorProto, helper

    first = graph.add_constant("form.first", np.array([1], np.int64))
    flat = graph.add_constant("form.flat", np.array([-1], np.int64))
    ones = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    return [
        helper.make_node("Cast", ["attention_mask"], ["form.float"], to=TensorProto.FLOAT),
        helper.make_node("Shape", ["attention_mask"], ["form.size"], start=1, end=2),
        helper.make_node("Concat", ["form.size", first], ["form.column"], axis=0),
        helper.make_node("ConstantOfShape", ["form.column"], ["form.ones"], value=ones),
        helper.make_node("MatMul", ["form.float", "form.ones"], ["form.sums"]),
        helper.make_node("Reshape", ["form.sums", flat], ["form.counts"]),
        helper.make_node("Cast", ["form.counts"], ["form.lengths"], to=TensorProto.INT32),
    ]
