"""Eight-bit integers for the constants of a graph: matrices, one scale a column, and embedding tables, one a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from untorch_export.graph.rewriting import Floats, Graph, node
from untorch_export.quantize.ranges import Range


def quantize_columns(weight: Floats, without: NDArray[np.int64] | None = None) -> tuple[NDArray[np.int8], Floats]:
    """Nearest integers in [-127, 127] and a scale for each column of a K x N matrix; rows in `without` are zero."""
    weight = weight.astype(np.float32)
    if without is not None:
        weight[without] = 0
    scales = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(127)
    return np.rint(weight / scales).astype(np.int8), scales


def quantize_product(weight: Floats, bias: Floats, found: Range) -> tuple[NDArray[np.int8], Floats, Floats]:
    """Integers and scales of a matrix whose outliers stay in fp32, and the bias that makes up for the rounding."""
    integers, scales = quantize_columns(weight, found.outliers)
    # What rounding the weights moves on average, the bias moves back.
    kept = np.delete(np.arange(len(weight)), found.outliers)
    bias = bias + found.mean[kept] @ (weight[kept] - integers[kept] * scales)
    return integers, scales, bias.astype(np.float32)


def quantize_tables(graph: Graph) -> None:
    """Replace every embedding table of a graph by integers with one scale a row."""
    for gather in graph.nodes:
        if gather.op_type == "Gather" and _is_table(graph, gather):
            _quantize_table(graph, gather)


def _is_table(graph: Graph, gather: NodeProto) -> bool:
    name = gather.input[0]
    if not graph.is_constant(name) or any(a.name == "axis" and a.i for a in gather.attribute):
        return False
    table = graph.constant(name)
    return table.ndim == 2 and table.dtype == np.float32 and len(table) > 2  # not the token types


def _quantize_table(graph: Graph, gather: NodeProto) -> None:
    name, ids = gather.input
    y = gather.output[0]
    integers, scales = quantize_columns(graph.constant(name).T)
    graph.replace(gather, [
        node("Gather", [graph.add_constant(f"{name}.int8", integers.T), ids], f"{y}.entry"),
        node("Gather", [graph.add_constant(f"{name}.scale", scales[:, None]), ids], f"{y}.entry_scale"),
        node("Cast", [f"{y}.entry"], f"{y}.integers", to=TensorProto.FLOAT),
        node("Mul", [f"{y}.integers", f"{y}.entry_scale"], y),
    ])  # fmt: skip
