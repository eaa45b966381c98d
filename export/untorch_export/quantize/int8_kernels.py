"""int8_kernels: the eight-bit form of a fused fp32 graph with the operators of untorch-kernels.

`Linear` is a product with all that surrounds it: it quantises each row of its input on 256 levels of the row's own,
multiplies, and adds the outliers' share, which stays in fp32, and the bias; where the graph goes on so, it also takes
GELU of the result, or adds the residual and normalises the sum. `Attention` is softmax attention over what one product
gave for queries, keys and values together. What they cannot do is left to ONNX Runtime's own operators, and products
beyond Linear's limits take the form they have in int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from untorch.ort.kernels import DOMAIN
from untorch_export.graph.attention import Attention, read
from untorch_export.graph.rewriting import Floats, Graph, attribute, node
from untorch_export.quantize.int8 import integer_products
from untorch_export.quantize.products import Product, find_products, replace_products
from untorch_export.quantize.ranges import Activations, Range
from untorch_export.quantize.rounding import quantize_product, quantize_tables

# What Linear takes at most; its outliers are far fewer than it could take.
_MOST_INPUTS, _MOST_OUTPUTS = 1 << 16, 1 << 20
# Columns that lie together in Linear's matrices, and channels.
_COLUMNS, _DEPTH = 64, 4
# How many channels a head of Attention may have.
_WIDTHS = range(16, 129, 16)


@dataclass(frozen=True)
class _Norm:
    """A layer norm's weight, bias (each as long as a row) and epsilon."""

    weight: Floats
    bias: Floats
    epsilon: float


@dataclass(frozen=True)
class _Tail:
    """What Linear does behind the product: what is `added` to its result first, and what its result is called."""

    y: str
    gelu: bool = False
    added: str = ""
    norm: _Norm | None = None


def quantize_kernels(model: onnx.ModelProto, seen: Activations) -> onnx.ModelProto | None:
    """A new model, made of a fused fp32 graph whose activations were `seen`; None where Linear has nothing to do."""
    graph = Graph(model)
    groups = find_products(graph)
    fitting = {
        product.y: product for group in groups.values() for product in group if _fits(*graph.shape(product.weight))
    }
    if not fitting:
        return None
    for x, group in groups.items():
        if rest := [product for product in group if product.y not in fitting]:
            integer_products(graph, rest, seen.range(x))
    for item in graph.nodes:
        if (layer := read(item)) is not None and (parts := _parts(graph, layer, fitting, seen)):
            _put_attention(graph, item, layer, parts, seen.range(parts[0].x))
            for part in parts:
                del fitting[part.y]
    for product in fitting.values():
        _put_linear(graph, product, seen)
    quantize_tables(graph)
    return graph.finish()


def _fits(inputs: int, outputs: int) -> bool:
    return inputs <= _MOST_INPUTS and outputs <= _MOST_OUTPUTS


def _parts(graph: Graph, layer: Attention, products: Mapping[str, Product], seen: Activations) -> list[Product]:
    """The products that give a layer's queries, keys and values, if Attention can take its place; else none."""
    parts = [products[name] for name in dict.fromkeys(layer.parts) if name in products]
    if len(parts) < 3 or layer.bias or layer.added or layer.causal or layer.kv_heads != layer.heads:
        return []
    if any(graph.only_reader(part.y) is None for part in parts):
        return []
    widths = {graph.shape(part.weight)[1] for part in parts}
    width, shape = min(widths), seen.shape(layer.query)
    if len({part.x for part in parts}) > 1 or len(widths) > 1 or shape is None or len(shape) != 3:
        return []
    if width % layer.heads or width // layer.heads not in _WIDTHS or 3 * width > _MOST_OUTPUTS:
        return []
    if (layer.scale or 0.0) < 0:
        return []
    return [] if layer.key_mask and seen.shape(layer.key_mask) != shape[:2] else parts


def _put_attention(graph: Graph, item: onnx.NodeProto, layer: Attention, parts: list[Product], found: Range) -> None:
    """One product for queries, keys and values, and attention over its result."""
    packed = f"{layer.output}.packed"
    weight = np.concatenate([graph.constant(part.weight) for part in parts], axis=1)
    bias = np.concatenate([part.bias for part in parts])
    replace_products(graph, parts, [_linear(graph, parts[0].x, weight, bias, found, _Tail(packed))])
    inputs = [packed, *filter(None, [layer.key_mask])]
    scale = float(layer.scale or 0.0)
    graph.replace(item, [node("Attention", inputs, layer.output, domain=DOMAIN, num_heads=layer.heads, scale=scale)])


def _put_linear(graph: Graph, product: Product, seen: Activations) -> None:
    """One product, with what comes behind it where Linear can do that, too."""
    tail, behind = _tail(graph, product, seen)
    weight = graph.constant(product.weight)
    linear = _linear(graph, product.x, weight, product.bias, seen.range(product.x), tail)
    if tail.added:
        # Where the norm stands, since what is added may be computed after the product.
        graph.replace(behind.pop(), [linear])
        graph.remove(*product.nodes, *behind)
    else:
        graph.remove(*behind)
        replace_products(graph, [product], [linear])


def _tail(graph: Graph, product: Product, seen: Activations) -> tuple[_Tail, list[onnx.NodeProto]]:
    """What Linear can do behind a product, and the nodes that do it now."""
    for gelu in graph.downstream(product.y, "Gelu"):
        if attribute(gelu, "approximate", b"none") == b"none":
            return _Tail(gelu.output[0], gelu=True), [gelu]
    for addition in graph.downstream(product.y, "Add"):
        added = _residual(addition, product.y, seen)
        for normalises in graph.downstream(addition.output[0], "LayerNormalization"):
            norm = _norm(graph, normalises, graph.shape(product.weight)[1], len(seen.shape(added) or ()))
            if added and norm is not None:
                return _Tail(normalises.output[0], added=added, norm=norm), [addition, normalises]
    return _Tail(product.y), []


def _residual(addition: onnx.NodeProto, y: str, seen: Activations) -> str:
    """What a node adds to `y` that has y's shape; empty where it repeats what it adds, or adds y to itself."""
    if set(addition.input) == {y}:
        return ""
    other = next(name for name in addition.input if name != y)
    shape = seen.shape(other)
    return other if shape is not None and shape == seen.shape(y) else ""


def _norm(graph: Graph, item: onnx.NodeProto, width: int, axes: int) -> _Norm | None:
    """The layer norm that a node is, over the last axis of so many, or None."""
    if any(item.output[1:]):
        return None
    constants = [name for name in item.input[1:] if name]
    if attribute(item, "axis", -1) not in (-1, axes - 1):
        return None
    if any(not graph.is_constant(name) or graph.shape(name) != (width,) for name in constants):
        return None
    values = [graph.constant(name) for name in constants]
    weight, bias = values if len(values) == 2 else (values[0], np.zeros(width, np.float32))
    return _Norm(weight, bias, attribute(item, "epsilon", 1e-5))


def _linear(graph: Graph, x: str, weight: Floats, bias: Floats, found: Range, tail: _Tail) -> onnx.NodeProto:
    """The node of one product with `weight` (inputs x outputs). Constants are named after the result: layers share."""
    integers, scales, bias = quantize_product(weight, bias, found)
    inputs, outputs = weight.shape
    tiles, steps = -(-outputs // _COLUMNS), -(-inputs // _DEPTH)
    whole = np.zeros((steps * _DEPTH, tiles * _COLUMNS), np.int8)
    whole[:inputs, :outputs] = integers
    packed = whole.reshape(steps, _DEPTH, tiles, _COLUMNS).transpose(2, 0, 3, 1)
    lines = [scales, bias, integers.sum(axis=0, dtype=np.int64) * scales, *weight[found.outliers]]
    if tail.norm is not None:
        lines += [tail.norm.weight, tail.norm.bias]
    columns = np.zeros((len(lines), tiles * _COLUMNS), np.float32)
    columns[:, :outputs] = lines
    names = [
        x,
        graph.add_constant(f"{tail.y}.tiles", packed),
        graph.add_constant(f"{tail.y}.columns", columns),
        graph.add_constant(f"{x}.outliers", found.outliers),
    ]
    return node(
        "Linear",
        names + [tail.added] * bool(tail.added),
        tail.y,
        domain=DOMAIN,
        in_features=inputs,
        out_features=outputs,
        gelu=int(tail.gelu),
        norm=int(tail.norm is not None),
        epsilon=tail.norm.epsilon if tail.norm is not None else 0.0,
    )
