"""Attention as the standard's `Attention` operator (opset 23), read by name and made one fused operator a layer.

It is how PyTorch's exporter writes `scaled_dot_product_attention`: queries, keys and values (batch, heads, sequence,
size), each split from a (batch, sequence, heads * size) array before, and joined again behind. The fused operators
take them unsplit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from untorch_export.graph.attention import Attention, fused
from untorch_export.graph.keys import KeyMasks
from untorch_export.graph.layouts import HEADS_INSIDE, joined, one_row_a_query, permutation, split_again
from untorch_export.graph.rewriting import Graph, attribute, given, node
from untorch_export.graph.shapes import Shape, infer

_MASK, _PAST = 3, 4
# What a masked score is lowered by: half of the lowest number, which leaves room for the scores.
_LEAST = np.float32(np.finfo(np.float32).min / 2)


def is_standard(item: onnx.NodeProto) -> bool:
    """Whether a node is the standard's operator on arrays that are split into heads."""
    return item.op_type == "Attention" and not item.domain and not attribute(item, "q_num_heads", 0)


def fuse_standard(graph: Graph, *, grouped: bool = True) -> None:
    """Replace every `Attention` of the standard's by one fused operator that takes arrays not yet split into heads.

    Where heads share keys and values, the operator is the standard's own unless `grouped` is false: then keys and
    values are repeated. Left as they are: layers for which `obstacle` names a reason.
    """
    if not any(map(is_standard, graph.nodes)):
        return
    shapes = infer(graph)
    masks = KeyMasks(graph, shapes)
    for item in graph.nodes:
        if is_standard(item) and obstacle(item, shapes) is None:
            _fuse(graph, item, shapes, masks, grouped=grouped)
    graph.drop_unused()


def obstacle(item: onnx.NodeProto, shapes: Mapping[str, Shape]) -> str | None:
    """Why one of the standard's `Attention` nodes cannot be fused, in words; None where it can."""
    if any(item.input[_PAST:]) or any(item.output[1:]):
        return "it goes on from earlier tokens, or gives more than its result"
    if attribute(item, "softcap", 0.0):
        return "its scores are capped"
    axes = [shapes.get(name, ()) for name in item.input[:_MASK]]
    if any(len(shape) != 4 or not isinstance(shape[1], int) for shape in axes):
        return "its number of heads is not known"
    if axes[0][3] != axes[2][3]:
        return "its values are wider than its queries"
    mask = given(item, _MASK)
    if mask and len(shapes.get(mask, ())) not in (2, 3, 4):
        return "the shape of its mask is not known"
    return None


def _fuse(graph: Graph, item: onnx.NodeProto, shapes: Mapping[str, Shape], masks: KeyMasks, *, grouped: bool) -> None:
    heads, kv_heads = (int(shapes[name][1] or 0) for name in item.input[:2])
    query, key, value = (joined(graph, name, item, shapes) for name in item.input[:_MASK])
    if kv_heads != heads and not grouped:
        key, value = (_repeated(graph, name, heads, kv_heads, item) for name in (key, value))
        kv_heads = heads
    mask, key_mask, added = given(item, _MASK), "", ""
    if mask and kv_heads == heads:
        key_mask = masks.find(mask, item)
    if mask and not key_mask:
        added = _added(graph, mask, masks.is_bool(mask), len(shapes[mask]), query, item)
    layer = Attention(
        query,
        key,
        value,
        heads,
        kv_heads,
        output=_joined_output(graph, item, shapes),
        scale=attribute(item, "scale", None),
        key_mask=key_mask,
        added=added,
        causal=bool(attribute(item, "is_causal", 0)),
    )
    graph.replace(item, [fused(_with_bias(graph, layer))])


def _joined_output(graph: Graph, item: onnx.NodeProto, shapes: Mapping[str, Shape]) -> str:
    """The name of the layer's result (batch, queries, heads * size).

    Where the graph joins the heads itself, that is the name of what it makes, and the nodes that do it go; a Reshape
    that changes nothing may stand before them. Otherwise the result is split again for whoever reads it.
    """
    result = item.output[0]
    found = graph.downstream(result, "Transpose", "Reshape")
    found = found or graph.downstream(result, "Reshape", "Transpose", "Reshape")
    if found and _joins_heads(found, shapes):
        graph.remove(*found)
        return found[-1].output[0]
    graph.set_outputs(item, [f"{result}.split"])
    graph.insert_after(item, *split_again(graph, f"{result}.joined", result, int(shapes[item.input[0]][1] or 0)))
    return f"{result}.joined"


def _joins_heads(found: list[onnx.NodeProto], shapes: Mapping[str, Shape]) -> bool:
    """Whether nodes behind a layer make (batch, queries, heads * size) of its result (batch, heads, queries, size)."""
    *same, merged, back = found
    split = shapes.get(found[0].input[0], ())
    if len(split) != 4 or permutation(merged) != HEADS_INSIDE:
        return False
    batch, heads, queries, size = split
    if not isinstance(heads, int) or not isinstance(size, int):
        return False
    unchanged = all(shapes.get(step.output[0]) == split for step in same)
    return unchanged and shapes.get(back.output[0]) == (batch, queries, heads * size)


def _repeated(graph: Graph, name: str, heads: int, kv_heads: int, before: onnx.NodeProto) -> str:
    """Keys or values (batch, keys, kv_heads * size) with each head as often as queries share it, in a row."""
    result = f"{name}.repeated"
    if graph.producer(result) is None:
        split = graph.add_constant(f"attention.split.{kv_heads}.1", np.array([0, 0, kv_heads, 1, -1], np.int64))
        shared = heads // kv_heads
        times = graph.add_constant(f"attention.times.{shared}", np.array([1, 1, 1, shared, 1], np.int64))
        join = graph.add_constant("attention.joined", np.array([0, 0, -1], np.int64))
        graph.insert_before(
            before,
            node("Reshape", [name, split], f"{name}.split"),
            node("Expand", [f"{name}.split", times], f"{name}.expanded"),
            node("Reshape", [f"{name}.expanded", join], result),
        )
    return result


def _added(graph: Graph, mask: str, is_bool: bool, rank: int, query: str, before: onnx.NodeProto) -> str:
    """A mask as what is added to the scores, with four axes and a row for each query. Layers share it."""
    result = f"{mask}.bias"
    if graph.producer(result) is not None:
        return result
    total = mask
    if is_bool:
        none, least = graph.add_constant("attention.none", np.float32(0)), graph.add_constant("attention.least", _LEAST)
        graph.insert_before(before, node("Where", [mask, none, least], f"{mask}.scores"))
        total = f"{mask}.scores"
    if rank < 4:
        axes = graph.add_constant(f"attention.axes.{rank}", np.arange(4 - rank, dtype=np.int64))
        graph.insert_before(before, node("Unsqueeze", [total, axes], f"{mask}.square"))
        total = f"{mask}.square"
    return one_row_a_query(graph, total, before, query, result)


def _with_bias(graph: Graph, layer: Attention) -> Attention:
    """The layer with the biases of the products that make its queries, keys and values, where it alone reads these.

    A GPU then adds them as it reads. What is quantised takes them back into its products.
    """
    if layer.kv_heads != layer.heads or len(set(layer.parts)) < 3:
        return layer
    names, rows = [], []
    for name in layer.parts:
        readers = graph.readers(name)
        added = _biased(graph, name) if len(readers) <= 1 and not graph.gives(name) else None
        if added is None:
            return layer
        names.append(added[0])
        rows.append(added[1])
    bias = graph.add_constant(f"{layer.output}.bias", np.concatenate(rows))
    query, key, value = names
    return replace(layer, query=query, key=key, value=value, bias=bias)


def _biased(graph: Graph, name: str) -> tuple[str, np.ndarray] | None:
    """A product with a constant matrix by name, and the row that is added to it to make a value."""
    addition = graph.producer(name)
    if addition is None or addition.op_type != "Add":
        return None
    for product, row in (addition.input, reversed(addition.input)):
        if graph.is_constant(row) and len(graph.shape(row)) == 1 and graph.only_reader(product) is addition:
            matrix = graph.upstream(product, "MatMul")
            if matrix and graph.is_constant(matrix[0].input[1]):
                return product, graph.constant(row)
    return None
