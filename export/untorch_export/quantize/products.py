"""The products of an activation with a constant matrix in a fused fp32 graph, each with its bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from untorch_export.graph.rewriting import Floats, Graph


@dataclass(frozen=True)
class Product:
    """y = x @ weight + bias: the node that multiplies, names of x, weight (K x N) and y, and the bias (N)."""

    node: onnx.NodeProto
    x: str
    weight: str
    bias: Floats
    y: str


def is_product(graph: Graph, node: onnx.NodeProto | None) -> bool:
    """Whether a node multiplies something with a constant matrix."""
    return (
        node is not None
        and node.op_type == "MatMul"
        and graph.is_constant(node.input[1])
        and len(graph.shape(node.input[1])) == 2
    )


def take_products(graph: Graph) -> dict[str, list[Product]]:
    """Take every product out of the graph, with the nodes and inputs that add its bias: lists by the name of their x.

    The caller puts something that gives the same y where each product's node stands.
    """
    biases = _take_attention_biases(graph)
    groups: dict[str, list[Product]] = {}
    for node in graph.nodes:
        if is_product(graph, node):
            x, weight = node.input
            added, y = _take_sum(graph, node)
            row = np.zeros(graph.shape(weight)[1]) + added + biases.get(node.output[0], np.float32(0))
            groups.setdefault(x, []).append(Product(node, x, weight, row.astype(np.float32), y))
            graph.replace(node, [])
    return groups


def _take_sum(graph: Graph, product: onnx.NodeProto) -> tuple[Floats | np.float32, str]:
    """Remove the constant addition after a product: its vector and the sum's name, or zero and the product's."""
    reader = graph.only_reader(product.output[0])
    if reader is not None and reader.op_type == "Add":
        for name in reader.input:
            if graph.is_constant(name) and len(graph.shape(name)) == 1:
                graph.replace(reader, [])
                return graph.constant(name), reader.output[0]
    return np.float32(0), product.output[0]


def _take_attention_biases(graph: Graph) -> dict[str, Floats]:
    """Take the bias of queries, keys and values out of attention operators: by name of the product it belongs to."""
    biases: dict[str, Floats] = {}
    for node in graph.nodes:
        if node.op_type != "MultiHeadAttention" or len(node.input) < 4 or not graph.is_constant(node.input[3]):
            continue
        products = [graph.producer(name) for name in node.input[:3]]
        if not all(is_product(graph, product) for product in products):
            continue
        if any(graph.only_reader(name) is None for name in node.input[:3]):
            continue
        widths = [graph.shape(product.input[1])[1] for product in products if product is not None]
        parts = np.split(graph.constant(node.input[3]), np.cumsum(widths)[:-1])
        biases.update(zip(node.input[:3], parts, strict=True))
        node.input[3] = ""
    return biases
