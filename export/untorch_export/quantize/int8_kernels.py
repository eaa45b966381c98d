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
from untorch_export.graph.rewriting import CONTRIB, Floats, Graph, attribute, node
from untorch_export.quantize.int8 import integer_products
from untorch_export.quantize.products import Product, take_products
from untorch_export.quantize.ranges import Activations, Range
from untorch_export.quantize.rounding import quantize_product, quantize_tables

# What Linear takes at most; its outliers are far fewer than it could take.
_MOST_INPUTS, _MOST_OUTPUTS = 1 << 16, 1 << 20
# Columns that lie together in Linear's matrices, and channels.
_COLUMNS, _DEPTH = 64, 4
# How many channels a head of Attention may have.
_WIDTHS = range(16, 129, 16)
# Places of MultiHeadAttention's inputs. What comes behind the mask, Attention does not know.
_BIAS, _MASK, _MORE = 3, 4, 5


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
    groups = take_products(graph)
    fitting = {
        product.y: product for group in groups.values() for product in group if _fits(*graph.shape(product.weight))
    }
    if not fitting:
        return None
    for x, group in groups.items():
        if rest := [product for product in group if product.y not in fitting]:
            integer_products(graph, rest, seen.range(x))
    for attention in graph.nodes:
        if parts := _parts(graph, attention, fitting, seen):
            _put_attention(graph, attention, parts, seen.range(parts[0].x))
            for part in parts:
                del fitting[part.y]
    for product in fitting.values():
        _put_linear(graph, product, seen)
    quantize_tables(graph)
    return graph.finish([DOMAIN])


def _fits(inputs: int, outputs: int) -> bool:
    return inputs <= _MOST_INPUTS and outputs <= _MOST_OUTPUTS


def _parts(
    graph: Graph, attention: onnx.NodeProto, products: Mapping[str, Product], seen: Activations
) -> list[Product]:
    """The products that give an attention's queries, keys and values, if Attention can take its place; else none."""
    if attention.op_type != "MultiHeadAttention" or any(attention.input[_MORE:]) or any(attention.output[1:]):
        return []
    names = [*attention.input, "", ""]
    parts = [products[name] for name in dict.fromkeys(names[:_BIAS]) if name in products]
    if len(parts) < 3 or names[_BIAS] or any(graph.only_reader(part.y) is None for part in parts):
        return []
    widths = {graph.shape(part.weight)[1] for part in parts}
    heads, width = attribute(attention, "num_heads", 1), min(widths)
    shape = seen.shape(names[0])
    if len({part.x for part in parts}) > 1 or len(widths) > 1 or shape is None or len(shape) != 3:
        return []
    if width % heads or width // heads not in _WIDTHS or 3 * width > _MOST_OUTPUTS:
        return []
    if attribute(attention, "unidirectional", 0) or attribute(attention, "scale", 0.0) < 0:
        return []
    masked = names[_MASK]
    return [] if masked and seen.shape(masked) != shape[:2] else parts


def _put_attention(graph: Graph, attention: onnx.NodeProto, parts: list[Product], found: Range) -> None:
    """One product for queries, keys and values, and attention over its result."""
    y = attention.output[0]
    weight = np.concatenate([graph.constant(part.weight) for part in parts], axis=1)
    bias = np.concatenate([part.bias for part in parts])
    graph.replace(parts[0].node, [_linear(graph, parts[0].x, weight, bias, found, _Tail(f"{y}.packed"))])
    inputs = [f"{y}.packed", *filter(None, attention.input[_MASK:])]
    heads, scale = attribute(attention, "num_heads", 1), attribute(attention, "scale", 0.0)
    graph.replace(attention, [node("Attention", inputs, y, domain=DOMAIN, num_heads=heads, scale=float(scale))])


def _put_linear(graph: Graph, product: Product, seen: Activations) -> None:
    """One product, with what comes behind it where Linear can do that, too."""
    place, tail = product.node, _Tail(product.y)
    reader = graph.only_reader(product.y)
    if reader is not None and reader.op_type == "Gelu" and reader.domain == CONTRIB:
        tail = _Tail(reader.output[0], gelu=True)
        graph.replace(reader, [])
    elif reader is not None and (added := _residual(reader, product.y, seen)):
        normalises = graph.only_reader(reader.output[0])
        norm = _norm(graph, normalises, graph.shape(product.weight)[1], len(seen.shape(added) or ()))
        if normalises is not None and norm is not None:
            # Where the norm stands, since what is added may be computed after the product.
            place, tail = normalises, _Tail(normalises.output[0], added=added, norm=norm)
            graph.replace(reader, [])
    weight = graph.constant(product.weight)
    graph.replace(place, [_linear(graph, product.x, weight, product.bias, seen.range(product.x), tail)])


def _residual(reader: onnx.NodeProto, y: str, seen: Activations) -> str:
    """What a node adds to `y` that has y's shape; empty where it does something else, or repeats what it adds."""
    if reader.op_type != "Add" or set(reader.input) == {y}:
        return ""
    other = next(name for name in reader.input if name != y)
    shape = seen.shape(other)
    return other if shape is not None and shape == seen.shape(y) else ""


def _norm(graph: Graph, reader: onnx.NodeProto | None, width: int, axes: int) -> _Norm | None:
    """The layer norm that a node is, over the last axis of so many, or None."""
    if reader is None or reader.op_type != "LayerNormalization" or any(reader.output[1:]):
        return None
    constants = [name for name in reader.input[1:] if name]
    if attribute(reader, "axis", -1) not in (-1, axes - 1):
        return None
    if any(not graph.is_constant(name) or graph.shape(name) != (width,) for name in constants):
        return None
    values = [graph.constant(name) for name in constants]
    weight, bias = values if len(values) == 2 else (values[0], np.zeros(width, np.float32))
    return _Norm(weight, bias, attribute(reader, "epsilon", 1e-5))


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
