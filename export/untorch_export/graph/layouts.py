"""The two layouts of queries, keys and values, and what goes from one to the other.

Models split (batch, sequence, heads * size) into (batch, heads, sequence, size) by a Reshape and a Transpose. Fused
operators take the first and do the splitting themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from untorch_export.graph.rewriting import Graph, attribute, node
from untorch_export.graph.shapes import Shape

# Orders of axes that a Transpose gives: heads before sequence, or after it again; and a transposed key's.
HEADS_INSIDE, KEYS = [0, 2, 1, 3], [0, 2, 3, 1]


def permutation(transpose: onnx.NodeProto) -> list[int]:
    """The order of axes that a Transpose gives; empty where it turns them round."""
    return list(attribute(transpose, "perm", []))


def joined(graph: Graph, name: str, before: onnx.NodeProto, shapes: Mapping[str, Shape] | None = None) -> str:
    """The (batch, sequence, heads * size) form of a (batch, heads, sequence, size) array or of a transposed key.

    It is what the array was split from, where it was split at once, which `shapes` confirm where they are given.
    Otherwise it is made, `before` a node.
    """
    made_by = graph.producer(name)
    order, source = HEADS_INSIDE, name
    if made_by is not None and made_by.op_type == "Transpose" and permutation(made_by) in (HEADS_INSIDE, KEYS):
        split = graph.producer(made_by.input[0])
        if split is not None and split.op_type == "Reshape" and _splits_heads(split, shapes):
            return split.input[0]
        order, source = [0, 1, 2, 3], made_by.input[0]
    result = f"{name}.joined"
    if graph.producer(result) is None:
        if order == HEADS_INSIDE:
            graph.insert_before(before, node("Transpose", [source], f"{name}.inside", perm=order))
            axes = (shapes or {}).get(name, ())
            source, shapes = f"{name}.inside", {f"{name}.inside": tuple(axes[at] for at in order) if axes else ()}
        graph.insert_before(before, node("Reshape", [source, _rows(graph, source, shapes or {})], result))
    return result


def _rows(graph: Graph, split: str, shapes: Mapping[str, Shape]) -> str:
    """The shape that joins the heads of an array (batch, sequence, heads, size), its last axis a number where known.

    ONNX Runtime (1.32) takes one that it cannot infer for 0 where heads share keys, and refuses what reads the result.
    """
    parts = shapes.get(split, ())[2:]
    known = [part for part in parts if isinstance(part, int)]
    width = math.prod(known) if parts and len(known) == len(parts) else -1
    return graph.add_constant(f"attention.joined.{width}", np.array([0, 0, width], np.int64))


def _splits_heads(reshape: onnx.NodeProto, shapes: Mapping[str, Shape] | None) -> bool:
    """Whether a Reshape makes (batch, sequence, heads, size) of (batch, sequence, heads * size)."""
    if shapes is None:
        return True
    whole, split = shapes.get(reshape.input[0], ()), shapes.get(reshape.output[0], ())
    if len(whole) != 3 or len(split) != 4 or not isinstance(split[2], int) or not isinstance(split[3], int):
        return False
    return whole[2] == split[2] * split[3]


def split_again(graph: Graph, rows: str, result: str, heads: int) -> list[onnx.NodeProto]:
    """The nodes that make `result` (batch, heads, sequence, size) of `rows` (batch, sequence, heads * size)."""
    shape = graph.add_constant(f"attention.split.{heads}", np.array([0, 0, heads, -1], np.int64))
    return [
        node("Reshape", [rows, shape], f"{result}.inside"),
        node("Transpose", [f"{result}.inside"], result, perm=HEADS_INSIDE),
    ]


def one_row_a_query(
    graph: Graph, added: str, before: onnx.NodeProto, query: str, result: str, *, sequence: int = 1, rank: int = 4
) -> str:
    """What is added to scores of a rank, (…, 1 or queries, keys), with a row for each query. Its name is `result`.

    The axis `sequence` of `query` says how many there are.
    """
    one = graph.add_constant("attention.one", np.array([1], np.int64))
    length, shape = f"{result}.length", f"{result}.shape"
    graph.insert_before(
        before,
        node("Shape", [query], length, start=sequence, end=sequence + 1),
        node("Concat", [*[one] * (rank - 2), length, one], shape, axis=0),
        node("Expand", [added, shape], result),
    )
    return result
