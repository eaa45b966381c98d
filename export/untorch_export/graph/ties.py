"""Weights that a model uses twice, once the other way round: an output layer tied to the embeddings is stored once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from untorch_export.graph.rewriting import Graph, node

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Matrices of fewer elements are not worth the operators around.
_LEAST = 1 << 12


def share_transposed(model: ModelProto) -> ModelProto:
    """A model whose products with the transpose of a matrix that it holds as well read that matrix.

    Tracing folds the transpose, and an embedding of 50,000 words would be stored twice. `Gemm` multiplies with a
    transpose as fast; it wants rows of two dimensions.
    """
    graph = Graph(model)
    shapes = {name: graph.shape(name) for name in graph.weights}
    large = {name: shape for name, shape in shapes.items() if len(shape) == 2 and shape[0] * shape[1] >= _LEAST}
    for product in graph.of("MatMul"):
        matrix = product.input[1]
        if matrix in large:
            turned = (name for name, shape in large.items() if shape == large[matrix][::-1] and name != matrix)
            twin = next((name for name in turned if _is_transpose(graph, matrix, name)), None)
            if twin is not None:
                graph.replace(product, _product(graph, product, twin))
    return graph.finish()


def _is_transpose(graph: Graph, matrix: str, other: str) -> bool:
    return np.array_equal(graph.constant(matrix).T, graph.constant(other))


def _product(graph: Graph, product: NodeProto, matrix: str) -> list[NodeProto]:
    """The nodes that multiply what `product` does with the transpose of `matrix` (width, size)."""
    rows, result = product.input[0], product.output[0]
    width, size = graph.shape(matrix)
    flat_shape = graph.add_constant(f"{result}.rows", np.array([-1, size]))
    flat, outer, shape, flat_result = (f"{result}.{part}" for part in ("flat", "outer", "shape", "product"))
    return [
        node("Reshape", [rows, flat_shape], flat),
        node("Gemm", [flat, matrix], flat_result, transB=1),
        node("Shape", [rows], outer, start=0, end=-1),
        node("Concat", [outer, graph.add_constant(f"{result}.width", np.array([width]))], shape, axis=0),
        node("Reshape", [flat_result, shape], result),
    ]
