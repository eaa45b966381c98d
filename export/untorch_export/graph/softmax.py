"""Attention written in small operators, found from its softmax outwards.

ONNX Runtime's optimizer knows the patterns of a few models. What all of them have in common is

    softmax(scale * query @ key.T + bias + ...) @ value

Whatever is added to the scores (a mask, relative positions) is added by the fused operator, too. Not found is attention
whose query also enters what is added to the scores before they are scaled, or that looks at blocks of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from untorch_export.graph.attention import Attention, fused
from untorch_export.graph.layouts import HEADS_INSIDE, KEYS, joined, one_row_a_query, permutation
from untorch_export.graph.rewriting import Graph, node

_LEAST = np.float32(float(np.finfo(np.float32).min) / 2)  # leaves room for the scores
_LAST_TWO = [0, 1, 3, 2]


@dataclass(frozen=True)
class _Scores:
    """Where scores come from: names of (batch, heads, sequence, size) arrays, the scale, and what is added."""

    query: str
    key: str
    scale: float | None
    added: tuple[str, ...] = ()


def fuse_softmax(graph: Graph, heads: int) -> None:
    """Replace every attention found in the graph by one operator. `heads` is the model's number of them."""
    for softmax in graph.of("Softmax"):
        if obstacle(graph, softmax) is None:
            _fuse(graph, softmax, heads)
    graph.drop_unused()


def obstacle(graph: Graph, softmax: onnx.NodeProto) -> str | None:
    """Why the attention around a softmax cannot be fused, in words; None where it can."""
    if _scores(graph, softmax.input[0]) is None:
        return "its scores are not one product of queries and keys, scaled, with something added afterwards"
    weights = _without_nan(graph, softmax)
    found = graph.downstream(weights.output[0], "MatMul", "Transpose", "Reshape")
    if not found or permutation(found[1]) != HEADS_INSIDE or found[0].input[0] != weights.output[0]:
        return "what its softmax weighs is not joined from heads to rows right behind"
    return None


def _fuse(graph: Graph, softmax: onnx.NodeProto, heads: int) -> None:
    weights = _without_nan(graph, softmax)
    context, _, result = graph.downstream(weights.output[0], "MatMul", "Transpose", "Reshape")
    if (scores := _scores(graph, softmax.input[0])) is None:
        return
    query, key, value = (joined(graph, name, result) for name in (scores.query, scores.key, context.input[1]))
    added = _sum(graph, scores.added, result, query, finite=weights is not softmax) if scores.added else ""
    layer = Attention(query, key, value, heads, heads, result.output[0], scale=scores.scale, added=added)
    graph.replace(result, [fused(layer)])


def _without_nan(graph: Graph, softmax: onnx.NodeProto) -> onnx.NodeProto:
    """The softmax, or what replaces its NaN by 0: a row of scores of -inf, where a query may attend to nothing."""
    readers = graph.readers(softmax.output[0])
    if sorted(reader.op_type for reader in readers) != ["IsNaN", "Where"]:
        return softmax
    return next(reader for reader in readers if reader.op_type == "Where")


def _scores(graph: Graph, name: str, scale: float = 1.0) -> _Scores | None:
    """Read scores backwards from their softmax, or None where they are something else."""
    made_by = graph.producer(name)
    if made_by is None:
        return None
    if made_by.op_type == "Add" and scale == 1.0:  # what is added before scaling would have to be scaled, too
        for scored, added in (made_by.input, reversed(made_by.input)):
            if (found := _scores(graph, scored)) is not None:
                return _Scores(found.query, found.key, found.scale, (*found.added, added))
        return None
    if made_by.op_type in ("Div", "Mul") and (factor := graph.scalar(made_by.input[1])) is not None:
        return _scores(graph, made_by.input[0], scale * (1 / factor if made_by.op_type == "Div" else factor))
    if made_by.op_type != "MatMul" or any(graph.is_constant(part) for part in made_by.input):
        return None
    return _product(graph, made_by, scale)


def _product(graph: Graph, product: onnx.NodeProto, scale: float) -> _Scores | None:
    """Read the product of queries and keys, each of which may have been scaled before."""
    (query, first), (key, second) = (_unscaled(graph, part) for part in product.input)
    # Both times a square root: 1/sqrt(size) in all, which is the operator's default.
    default = first is None
    if default != (second is None):
        return None
    scale *= (first or 1.0) * (second or 1.0)
    transposed = graph.producer(key)
    if transposed is None or transposed.op_type != "Transpose" or (default and scale != 1.0):
        return None
    if permutation(transposed) == KEYS:
        return _Scores(query, key, None if default else scale)
    if permutation(transposed) == _LAST_TWO:
        return _Scores(query, transposed.input[0], None if default else scale)
    return None


def _unscaled(graph: Graph, name: str) -> tuple[str, float | None]:
    """Without the factor with which PyTorch's own attention begins, and that factor; 1 where there is none.

    It is the root of the scale: None for the default, 1/sqrt(size), which is computed from the array's shape, and a
    number where the model names its scale.
    """
    made_by = graph.producer(name)
    if made_by is None or made_by.op_type != "Mul":
        return name, 1.0
    if (factor := graph.scalar(made_by.input[1])) is not None:
        return made_by.input[0], factor
    root = graph.producer(made_by.input[1])
    if root is not None and root.op_type == "Sqrt" and not graph.is_constant(root.input[0]):
        return made_by.input[0], None
    return name, 1.0


def _sum(graph: Graph, added: tuple[str, ...], before: onnx.NodeProto, query: str, *, finite: bool) -> str:
    """What is added to the scores, as one array with an axis as long as the query's sequence. Layers share it.

    Where it is to be `finite`, a query that may attend to nothing attends to everything alike, instead of giving NaN.
    Such a query is padding, whose values nobody reads.
    """
    name = "+".join(added)
    if graph.producer(f"{name}.bias") is not None:
        return f"{name}.bias"
    total = added[0]
    for index, other in enumerate(added[1:]):
        graph.insert_before(before, node("Add", [total, other], f"{name}.sum{index}"))
        total = f"{name}.sum{index}"
    if finite:
        least = graph.add_constant("attention.least", _LEAST)
        graph.insert_before(before, node("Max", [total, least], f"{name}.finite"))
        total = f"{name}.finite"
    return one_row_a_query(graph, total, before, query, f"{name}.bias")
