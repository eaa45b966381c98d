"""Weights that a model uses twice, once the other way round: an output layer tied to the embeddings is stored once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from untorch_export.graph.rewriting import Graph, node

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Matrices of fewer elements are not worth the operators around.
_LEAST = 1 << 14


def share_transposed(model: ModelProto) -> ModelProto:
    """A model whose products with the transpose of a matrix that the graph holds as well read that matrix.

    Tracing folds the transpose, and an embedding of 50,000 words would be stored twice. `Gemm` multiplies with a
    transpose as fast; it wants rows of two dimensions.
    """
    graph = Graph(model)
    shared = False
    for product in graph.of("MatMul"):
        twin = _twin(graph, product.input[1])
        if twin is not None:
            graph.replace(product, _product(graph, product, twin))
            shared = True
    return graph.finish() if shared else model


def _twin(graph: Graph, name: str) -> str | None:
    """The weight whose transpose the weight `name` is."""
    if name not in graph.weights:
        return None
    rows, *columns = graph.shape(name)
    if len(columns) != 1 or rows * columns[0] < _LEAST:
        return None
    alike = [other for other in graph.weights if other != name and graph.shape(other) == (*columns, rows)]
    matrix = graph.constant(name).T if alike else None
    return next((other for other in alike if np.array_equal(graph.constant(other), matrix)), None)  # type: ignore[arg-type]


def _product(graph: Graph, product: NodeProto, matrix: str) -> list[NodeProto]:
    """What `product` multiplies, with the transpose of `matrix` (width, size)."""
    rows, result = product.input[0], product.output[0]
    flat, outer, shape, whole = (f"{result}.{part}" for part in ("flat", "outer", "shape", "product"))
    width, size = graph.shape(matrix)
    any_rows = graph.add_constant(f"{result}.any", np.array([-1, size], np.int64))
    last = graph.add_constant(f"{result}.width", np.array([width], np.int64))
    return [
        node("Reshape", [rows, any_rows], flat),
        node("Gemm", [flat, matrix], whole, transB=1),
        node("Shape", [rows], outer, start=0, end=-1),
        node("Concat", [outer, last], shape, axis=0),
        node("Reshape", [whole, shape], result),
    ]
