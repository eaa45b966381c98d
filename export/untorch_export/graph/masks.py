"""A mask of keys as a bias on the scores of attention, for which a GPU has a fused kernel.

ONNX Runtime's CUDA provider runs MultiHeadAttention with a mask (rows, tokens) as two products and a softmax, between
which the scores go through the GPU's memory. With a bias (rows, 1, tokens, tokens) it is one kernel where rows are a
multiple of eight long, on every GPU since Ampere (`contrib_ops/cuda/bert/multihead_attention.cc`, version 1.27), and
right under any mask.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from untorch_export.graph.attention import Attention, fused, read
from untorch_export.graph.fp16 import MASKED
from untorch_export.graph.rewriting import Graph, node


def as_bias(half: onnx.ModelProto) -> onnx.ModelProto:
    """A new model of an fp16 one whose attention has its mask as a bias. Layers that read one mask share one bias.

    Attention whose queries are not all of the tokens keeps its mask: the scores of a head's one query are few.
    """
    graph = Graph(half)
    made: dict[str, str] = {}
    for item in graph.nodes:
        layer = read(item)
        if layer is None or not layer.key_mask or layer.added or not _asks_for_all(graph, layer):
            continue
        mask = layer.key_mask
        if cast := graph.upstream(mask, "Cast"):
            mask = cast[0].input[0]
        if mask not in made:
            made[mask] = f"{mask}.bias"
            graph.insert_before(item, *_bias(graph, mask, made[mask]))
        graph.replace(item, [fused(replace(layer, key_mask="", added=made[mask]))])
    graph.drop_unused()
    return graph.finish()


def _asks_for_all(graph: Graph, layer: Attention) -> bool:
    """Whether queries and keys are made of the same tokens."""
    query, key = graph.producer(layer.query), graph.producer(layer.key)
    return query is not None and key is not None and query.input[0] == key.input[0]


def _bias(graph: Graph, mask: str, bias: str) -> list[onnx.NodeProto]:
    """(rows, 1, tokens, tokens) in fp16 from a mask (rows, tokens): 0 for a key to look at, MASKED for padding."""
    none = graph.add_constant("bias.none", np.float16(0))
    masked = graph.add_constant("bias.masked", np.float16(MASKED))
    one = graph.add_constant("bias.one", np.array([1], np.int64))
    axes = graph.add_constant("bias.axes", np.array([1, 2], np.int64))
    real, keys, row, length, square = (f"{bias}.{part}" for part in ("real", "keys", "row", "length", "square"))
    return [
        node("Cast", [mask], real, to=TensorProto.BOOL),
        node("Where", [real, none, masked], keys),
        node("Unsqueeze", [keys, axes], row),
        node("Shape", [mask], length, start=1, end=2),
        node("Concat", [one, one, length, one], square, axis=0),
        node("Expand", [row, square], bias),
    ]
