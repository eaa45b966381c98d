"""The products of an activation with a constant matrix in a fused fp32 graph, each with its bias."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from untorch_export.graph.attention import fused, read
from untorch_export.graph.rewriting import Floats, Graph


@dataclass(frozen=True)
class Product:
    """y = x @ weight + bias: names of x, weight (K x N) and y, and the bias (N).

    `nodes` are the one that multiplies and, where there is one, that which adds the bias.
    """

    nodes: tuple[onnx.NodeProto, ...]
    x: str
    weight: str
    bias: Floats
    y: str


def is_product(graph: Graph, item: onnx.NodeProto) -> bool:
    """Whether a node multiplies something with a constant matrix."""
    return item.op_type == "MatMul" and graph.is_constant(item.input[1]) and len(graph.shape(item.input[1])) == 2


def find_products(graph: Graph) -> dict[str, list[Product]]:
    """Every product of the graph, in lists by the name of their x, and the biases taken out of attention operators."""
    biases = _take_attention_biases(graph)
    groups: dict[str, list[Product]] = {}
    for item in graph.nodes:
        if is_product(graph, item):
            x, weight = item.input
            added, addition = _sum(graph, item)
            row = np.zeros(graph.shape(weight)[1]) + added + biases.get(item.output[0], np.float32(0))
            nodes = (item, *addition)
            product = Product(nodes, x, weight, row.astype(np.float32), nodes[-1].output[0])
            groups.setdefault(x, []).append(product)
    return groups


def replace_products(graph: Graph, products: Sequence[Product], new: Iterable[onnx.NodeProto]) -> None:
    """Put nodes that give the same y of each product where the first of them stands."""
    first, *others = [item for product in products for item in product.nodes]
    graph.remove(*others)
    graph.replace(first, new)


def _sum(graph: Graph, product: onnx.NodeProto) -> tuple[Floats | np.float32, list[onnx.NodeProto]]:
    """The constant vector that is added to a product, zero if none is, and the node that does it."""
    for addition in graph.downstream(product.output[0], "Add"):
        for name in addition.input:
            if graph.is_constant(name) and len(graph.shape(name)) == 1:
                return graph.constant(name), [addition]
    return np.float32(0), []


def _take_attention_biases(graph: Graph) -> dict[str, Floats]:
    """Take the bias of queries, keys and values out of attention operators: by name of the product it belongs to."""
    biases: dict[str, Floats] = {}
    for item in graph.nodes:
        layer = read(item)
        if layer is None or not layer.bias or not graph.is_constant(layer.bias):
            continue
        products = [graph.upstream(name, "MatMul") for name in layer.parts if graph.only_reader(name) is not None]
        if len(products) < 3 or not all(found and is_product(graph, found[0]) for found in products):
            continue
        widths = [graph.shape(found[0].input[1])[1] for found in products]
        parts = np.split(graph.constant(layer.bias), np.cumsum(widths)[:-1])
        biases.update(zip(layer.parts, parts, strict=True))
        graph.replace(item, [fused(replace(layer, bias=""))])
    return biases
