"""Weights that a model uses twice, once the other way round: an output layer tied to the embeddings is stored once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from untorch_export.graph import files

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

# Smaller matrices are not worth the operators around.
_LEAST_BYTES = 1 << 16


def share_transposed(model: ModelProto) -> None:
    """Have products with the transpose of a matrix that the graph holds as well read that matrix, in place.

    Tracing folds the transpose, and an embedding of 50,000 words would be stored twice. `Gemm` multiplies with a
    transpose as fast; it wants rows of two dimensions.
    """
    graph = model.graph
    large = {
        tensor.name: tensor
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and int(np.prod(tensor.dims)) * 4 >= _LEAST_BYTES
    }
    nodes: list[NodeProto] = []
    for node in graph.node:
        matrix = large.get(node.input[1]) if node.op_type == "MatMul" else None
        twin = _twin(matrix, large.values()) if matrix is not None else None
        nodes += [node] if twin is None else _product(model, node, twin)
    del graph.node[:]
    graph.node.extend(nodes)
    files.drop_unused(graph)


def _twin(matrix: TensorProto, others: Iterable[TensorProto]) -> TensorProto | None:
    """The one among `others` whose transpose a matrix is."""
    from onnx.numpy_helper import to_array

    turned = [tensor for tensor in others if tensor is not matrix and [*tensor.dims] == [*matrix.dims][::-1]]
    values = to_array(matrix).T if turned else None
    return next((tensor for tensor in turned if np.array_equal(to_array(tensor), values)), None)


def _product(model: ModelProto, node: NodeProto, matrix: TensorProto) -> list[NodeProto]:
    """What `node` multiplies, with the transpose of `matrix` (width, size)."""
    from onnx import TensorProto, helper

    rows, result = node.input[0], node.output[0]
    flat, outer, shape, product = (f"{result}.{part}" for part in ("flat", "outer", "shape", "product"))
    width, size = matrix.dims
    model.graph.initializer.extend(
        [
            helper.make_tensor(f"{result}.any", TensorProto.INT64, [2], [-1, size]),
            helper.make_tensor(f"{result}.width", TensorProto.INT64, [1], [width]),
        ]
    )
    return [
        helper.make_node("Reshape", [rows, f"{result}.any"], [flat], f"{node.name}/flat"),
        helper.make_node("Gemm", [flat, matrix.name], [product], f"{node.name}/product", transB=1),
        helper.make_node("Shape", [rows], [outer], f"{node.name}/outer", start=0, end=-1),
        helper.make_node("Concat", [outer, f"{result}.width"], [shape], f"{node.name}/shape", axis=0),
        helper.make_node("Reshape", [product, shape], [result], f"{node.name}/whole"),
    ]
