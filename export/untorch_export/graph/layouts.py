"""The two layouts of queries, keys and values, and what goes from one to the other.

Models split (batch, sequence, heads * size) into (batch, heads, sequence, size) by a Reshape and a Transpose. Fused
operators take the first and do the splitting themselves.
"""

from __future__ import annotations

import numpy as np
import onnx

from untorch_export.graph.rewriting import Graph, attribute, node

_HEADS_INSIDE, _KEYS = [0, 2, 1, 3], [0, 2, 3, 1]


def permutation(transpose: onnx.NodeProto) -> list[int]:
    """The order of axes that a Transpose gives; empty where it turns them round."""
    return list(attribute(transpose, "perm", []))


def joined(graph: Graph, name: str, before: onnx.NodeProto) -> str:
    """The (batch, sequence, heads * size) form of a (batch, heads, sequence, size) array or of a transposed key.

    It is what the array was split from, where it was split at once. Otherwise it is made, `before` a node.
    """
    made_by = graph.producer(name)
    order, source = _HEADS_INSIDE, name
    if made_by is not None and made_by.op_type == "Transpose" and permutation(made_by) in (_HEADS_INSIDE, _KEYS):
        split = graph.producer(made_by.input[0])
        if split is not None and split.op_type == "Reshape":
            return split.input[0]
        order, source = [0, 1, 2, 3], made_by.input[0]
    result = f"{name}.joined"
    if graph.producer(result) is None:
        if order == _HEADS_INSIDE:
            graph.insert_before(before, node("Transpose", [source], f"{name}.inside", perm=order))
            source = f"{name}.inside"
        shape = graph.add_constant("attention.joined", np.array([0, 0, -1], np.int64))
        graph.insert_before(before, node("Reshape", [source, shape], result))
    return result


def one_row_a_query(graph: Graph, added: str, before: onnx.NodeProto, query: str, result: str) -> str:
    """What is added to scores, (…, 1 or queries, keys), with a row for each query (batch, queries, heads * size)."""
    one = graph.add_constant("attention.one", np.array([1], np.int64))
    length, shape = f"{result}.length", f"{result}.shape"
    graph.insert_before(
        before,
        node("Shape", [query], length, start=1, end=2),
        node("Concat", [one, one, length, one], shape, axis=0),
        node("Expand", [added, shape], result),
    )
    return result
