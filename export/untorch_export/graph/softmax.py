"""Attention written in small operators, found from its softmax outwards.

ONNX Runtime's optimizer knows the patterns of a few models. What all of them have in common is

    softmax(scale * query @ key.T + bias + ...) @ value

Whatever is added to the scores (a mask, relative positions, what DeBERTa makes of queries and distances) is computed
beside, and added by the fused operator, too. It takes the same steps as the scores do on their way to the softmax: it
is scaled, reshaped and masked where they are. Heads are an axis of their own, (batch, heads, sequence, size), or joined
with the batch for the two products. Not found is attention whose scores are changed in another way (capped, or mixed
between heads), or that looks at blocks of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from untorch_export.graph.attention import Attention, fused
from untorch_export.graph.layouts import HEADS_INSIDE, joined, permutation, split_again
from untorch_export.graph.rewriting import Graph, node
from untorch_export.graph.scores import Beside, by_heads, read_scores
from untorch_export.graph.shapes import Shape, infer

# Operators past which nothing is scores.
_STOPS = ("MatMul", "Gemm", "Conv", "LayerNormalization", "RMSNormalization")
_SPLIT, _ROWS = 4, 3  # axes of arrays with an axis for heads, and of those without


@dataclass(frozen=True)
class _Weighed:
    """What a softmax weighs, the name of (batch, heads, keys, size), and the last node of what is made of it.

    That node gives (batch, queries, heads * size) where it `joins` heads, and (batch, heads, queries, size) elsewhere.
    """

    value: str
    last: onnx.NodeProto
    joins: bool


def fuse_softmax(graph: Graph, heads: int, shapes: Mapping[str, Shape] | None = None) -> None:
    """Replace every attention found in the graph by one operator.

    `heads` is the model's number of them, which counts where the graph itself does not say: ConvBERT's config counts
    heads that it replaces by convolutions, too. `shapes` are those of its values, found out where they are not given.
    """
    if not graph.of("Softmax"):
        return
    shapes = infer(graph) if shapes is None else shapes
    beside = Beside(graph, shapes)
    for softmax in graph.of("Softmax"):
        if obstacle(graph, softmax, shapes) is None:
            _fuse(graph, softmax, _heads(softmax, shapes) or heads, shapes, beside)
    graph.drop_unused()


def _heads(softmax: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """How many heads the scores are of, (batch, heads, queries, keys); 0 where it is not known."""
    shape = shapes.get(softmax.input[0], ())
    count = shape[1] if len(shape) == _SPLIT else None
    return count if isinstance(count, int) else 0


def attends(graph: Graph, softmax: onnx.NodeProto) -> bool:
    """Whether a softmax is over scores of attention: right above it, two arrays of activations are multiplied.

    Others choose experts, or make the kernels of a convolution. Between the product and the softmax heads may be mixed,
    by a square matrix.
    """
    seen: set[str] = set()
    waiting = [softmax.input[0]]
    while waiting:
        name = waiting.pop()
        made_by = graph.producer(name)
        if made_by is None or name in seen:
            continue
        seen.add(name)
        if made_by.op_type in ("MatMul", "Einsum") and not any(map(graph.is_constant, made_by.input)):
            return True
        if made_by.op_type not in _STOPS or _mixes_heads(graph, made_by):
            waiting += made_by.input
    return False


def _mixes_heads(graph: Graph, product: onnx.NodeProto) -> bool:
    matrix = product.input[-1]
    shape = graph.shape(matrix) if product.op_type == "MatMul" and graph.is_constant(matrix) else ()
    return len(shape) == len(set(shape)) + 1 == 2


def obstacle(graph: Graph, softmax: onnx.NodeProto, shapes: Mapping[str, Shape]) -> str | None:
    """Why the attention around a softmax cannot be fused, in words; None where it can."""
    if len(shapes.get(softmax.input[0], ())) == _ROWS:
        return "its heads are joined with the batch where scores become shares"
    if read_scores(graph, softmax.input[0], shapes) is None:
        return "its scores are not one product of queries and keys, scaled, with something added or masked afterwards"
    if _weighed(graph, _without_nan(graph, softmax), shapes) is None:
        return "its shares are not multiplied with values and nothing else"
    return None


def _fuse(graph: Graph, softmax: onnx.NodeProto, heads: int, shapes: Mapping[str, Shape], beside: Beside) -> None:
    weights = _without_nan(graph, softmax)
    scores, weighed = read_scores(graph, softmax.input[0], shapes), _weighed(graph, weights, shapes)
    if scores is None or weighed is None:
        return
    last, result = weighed.last, weighed.last.output[0]
    query, key, value = (joined(graph, name, last) for name in (scores.query, scores.key, weighed.value))
    for kind, factor in scores.computed:
        graph.insert_before(last, node(kind, [query, factor], f"{query}.{kind.lower()}.{result}"))
        query = f"{query}.{kind.lower()}.{result}"
    added = beside.added(scores, query, last, finite=weights is not softmax)
    made = result if weighed.joins else f"{result}.joined"
    layer = Attention(query, key, value, heads, heads, made, scale=scores.scale, added=added)
    back = [] if weighed.joins else split_again(graph, made, result, heads)
    graph.replace(last, [fused(layer), *back])


def _without_nan(graph: Graph, softmax: onnx.NodeProto) -> onnx.NodeProto:
    """The softmax, or what replaces its NaN by 0: a row of scores of -inf, where a query may attend to nothing."""
    readers = graph.readers(softmax.output[0])
    if sorted(reader.op_type for reader in readers) != ["IsNaN", "Where"]:
        return softmax
    return next(reader for reader in readers if reader.op_type == "Where")


def _weighed(graph: Graph, weights: onnx.NodeProto, shapes: Mapping[str, Shape]) -> _Weighed | None:
    """Read on from a softmax; None where its shares are used otherwise."""
    shares = weights.output[0]
    merged = _next(graph, shares, "Reshape")
    shares = merged.output[0] if merged is not None else shares
    product = _next(graph, shares, "MatMul")
    if product is None or product.input[0] != shares or graph.is_constant(product.input[1]):
        return None
    value = by_heads(graph, product.input[1], shapes)
    parted = _next(graph, product.output[0], "Reshape") if merged is not None else product
    if not value or parted is None:
        return None
    turned = _next(graph, parted.output[0], "Transpose")
    rows = _next(graph, turned.output[0], "Reshape") if turned is not None else None
    if turned is None or rows is None or permutation(turned) != HEADS_INSIDE:
        return _Weighed(value, parted, joins=False)
    joins = len(shapes.get(rows.output[0], ())) in (0, _ROWS)
    return _Weighed(value, rows if joins else parted, joins)


def _next(graph: Graph, name: str, kind: str) -> onnx.NodeProto | None:
    """The node of a kind that alone reads a value. TorchScript's graphs also ask for the shape of what they reshape."""
    readers = [reader for reader in graph.readers(name) if reader.op_type != "Shape"]
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind and not graph.gives(name) else None
