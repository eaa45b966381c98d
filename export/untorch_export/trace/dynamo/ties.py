"""Weights that a model uses twice, once the other way round: an output layer tied to the embeddings is stored once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

from untorch_export.graph.rewriting import Graph

# Smaller matrices are not worth the operators around.
_LEAST_BYTES = 1 << 16


def share_transposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new model whose products with the transpose of a matrix that the graph holds as well read that matrix.

    Tracing folds the transpose, and an embedding of 50,000 words would be stored twice. `Gemm` multiplies with a
    transpose as fast; it wants rows of two dimensions.
    """
    graph = Graph(model)
    large = {name: graph.shape(name) for name in graph.weights}
    large = {name: shape for name, shape in large.items() if len(shape) == 2 and np.prod(shape) * 4 >= _LEAST_BYTES}
    for product in graph.of("MatMul"):
        matrix = product.input[1]
        if matrix in large:
            turned = [name for name in large if name != matrix and large[name] == large[matrix][::-1]]
            if (twin := _twin(graph, matrix, turned)) is not None:
                graph.replace(product, _product(graph, product, twin))
    return graph.finish()


def _twin(graph: Graph, matrix: str, others: Iterable[str]) -> str | None:
    """The one among `others` whose transpose a matrix is."""
    values = None
    for name in others:
        values = graph.constant(matrix).T if values is None else values
        if np.array_equal(graph.constant(name), values):
            return name
    return None


def _product(graph: Graph, product: onnx.NodeProto, matrix: str) -> list[onnx.NodeProto]:
    """What `product` multiplies, with the transpose of `matrix` (width, size)."""
    rows, result, name = product.input[0], product.output[0], product.name
    flat, outer, shape, whole = (f"{result}.{part}" for part in ("flat", "outer", "shape", "product"))
    width, size = graph.shape(matrix)
    any_rows = graph.add_constant(f"{result}.any", np.array([-1, size], np.int64))
    last = graph.add_constant(f"{result}.width", np.array([width], np.int64))
    return [
        helper.make_node("Reshape", [rows, any_rows], [flat], f"{name}/flat"),
        helper.make_node("Gemm", [flat, matrix], [whole], f"{name}/product", transB=1),
        helper.make_node("Shape", [rows], [outer], f"{name}/outer", start=0, end=-1),
        helper.make_node("Concat", [outer, last], [shape], f"{name}/shape", axis=0),
        helper.make_node("Reshape", [whole, shape], [result], f"{name}/whole"),
    ]
