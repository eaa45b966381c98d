"""Scores of attention, read backwards from their softmax: the product of queries and keys, and the steps behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from untorch_export.graph.layouts import HEADS_INSIDE, KEYS, one_row_a_query, permutation
from untorch_export.graph.rewriting import Graph
from untorch_export.graph.shapes import Shape

Shapes = Mapping[str, Shape]

_LEAST = np.float32(float(np.finfo(np.float32).min) / 2)  # leaves room for the scores
# A constant below this can only be a mask.
_MASK_BELOW = -1e30
# Orders of axes that turn a key round, whether heads are an axis of their own or joined with the batch.
_LAST_TWO = ([0, 1, 3, 2], [0, 2, 1])
# What an axis of queries is called, in what is made here.
_QUERIES = "queries"


@dataclass(frozen=True)
class Scores:
    """Where scores come from: names of queries and keys, their scale, and the steps from their product to the softmax.

    The arrays are (batch, heads, sequence, size), a key maybe as a Transpose gives it, (batch, heads, size, sequence).
    `scale` is None for 1 / sqrt(size). A step is a node, and the place among its inputs where the scores come in.
    `computed` names factors that the graph computes, each with the operator (Mul or Div) that scales a product by it.
    """

    query: str
    key: str
    scale: float | None
    steps: tuple[tuple[onnx.NodeProto, int], ...] = ()
    computed: tuple[tuple[str, str], ...] = ()


def read_scores(graph: Graph, name: str, shapes: Shapes) -> Scores | None:
    """Read scores backwards, or None where they are something else."""
    made_by = graph.producer(name)
    if made_by is None:
        return None
    if made_by.op_type == "MatMul":
        return _product(graph, made_by, shapes)
    for place in _places(graph, made_by):
        if (found := read_scores(graph, made_by.input[place], shapes)) is not None:
            return _after(graph, found, made_by, place)
    return None


def _places(graph: Graph, step: onnx.NodeProto) -> Sequence[int]:
    """The inputs of a node through which scores may come: it adds to them, scales, reshapes or masks them."""
    if step.op_type == "Add":
        return (0, 1)
    if step.op_type == "Reshape" or (step.op_type in ("Div", "Mul") and graph.scalar(step.input[1])):
        return (0,)
    if step.op_type == "Where":
        return [place for place in (1, 2) if _masks(graph, step.input[3 - place])]
    # A sum with masks is kept from falling below the lowest number.
    return (0,) if step.op_type == "Max" and len(step.input) == 2 and _masks(graph, step.input[1]) else ()


def _masks(graph: Graph, name: str) -> bool:
    return (value := graph.scalar(name)) is not None and value < _MASK_BELOW


def _after(graph: Graph, scores: Scores, step: onnx.NodeProto, place: int) -> Scores | None:
    """The scores after one step more; None where a scale that is computed from the array's shape is scaled again."""
    steps = (*scores.steps, (step, place))
    if step.op_type not in ("Div", "Mul"):
        return replace(scores, steps=steps)
    factor = graph.scalar(step.input[1])
    if scores.scale is None or not factor:
        return None
    return replace(scores, steps=steps, scale=scores.scale * (1 / factor if step.op_type == "Div" else factor))


def _product(graph: Graph, product: onnx.NodeProto, shapes: Shapes) -> Scores | None:
    """Read the product of queries and keys, each of which may have been scaled before."""
    if any(map(graph.is_constant, product.input)):
        return None
    computed: list[tuple[str, str]] = []
    (query, first), (key, second) = (_unscaled(graph, part, shapes, computed) for part in product.input)
    # Both times a square root: 1/sqrt(size) in all, which is the operator's default.
    default = first is None
    if default != (second is None):
        return None
    turned = graph.producer(key)
    if turned is not None and turned.op_type == "Transpose" and permutation(turned) in _LAST_TWO:
        key = by_heads(graph, turned.input[0], shapes)
    else:
        key = by_heads(graph, key, shapes, KEYS)
        turned = graph.producer(key)
        if turned is None or turned.op_type != "Transpose" or permutation(turned) != KEYS:
            return None
    query = by_heads(graph, query, shapes)
    if not query or not key:
        return None
    return Scores(query, key, None if default else (first or 1.0) * (second or 1.0), computed=tuple(computed))


def _unscaled(graph: Graph, name: str, shapes: Shapes, computed: list[tuple[str, str]]) -> tuple[str, float | None]:
    """Without the factor that an array is multiplied with before the product, and that factor; 1 where there is none.

    PyTorch's own attention begins with the root of the scale: None for that of the default, 1/sqrt(size), which is
    computed from the array's shape. Any other single number that the graph computes goes to `computed`.
    """
    made_by = graph.producer(name)
    if made_by is None or made_by.op_type not in ("Mul", "Div"):
        return name, 1.0
    if factor := graph.scalar(made_by.input[1]):
        return made_by.input[0], factor if made_by.op_type == "Mul" else 1 / factor
    root = graph.producer(made_by.input[1])
    if (
        made_by.op_type == "Mul"
        and root is not None
        and root.op_type == "Sqrt"
        and not graph.is_constant(root.input[0])
    ):
        return made_by.input[0], None
    if not graph.is_constant(made_by.input[1]) and shapes.get(made_by.input[1]) == ():
        computed.append((made_by.op_type, made_by.input[1]))
        return made_by.input[0], 1.0
    return name, 1.0


def by_heads(graph: Graph, name: str, shapes: Shapes, order: Sequence[int] = HEADS_INSIDE) -> str:
    """An array with an axis for its heads, as it was before they were joined with the batch; empty where none is seen.

    What a Reshape joined is told from the Transpose before it, which brought the heads beside the batch.
    """
    rank, made_by = len(shapes.get(name, ())), graph.producer(name)
    if rank == len(order):
        return name
    if made_by is None or made_by.op_type != "Reshape":
        return "" if rank else name
    split = graph.producer(made_by.input[0])
    merged = split is not None and split.op_type == "Transpose" and permutation(split) == list(order)
    return made_by.input[0] if merged else ""


class Beside:
    """Computes what is added to scores beside their product. Layers that add the same share it."""

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self._graph, self._shapes = graph, dict(shapes)
        self._made: dict[tuple[bytes, ...], str] = {}

    def added(self, scores: Scores, queries: str, before: onnx.NodeProto, *, finite: bool) -> str:
        """What is added to the scores, (…, queries, keys), made `before` a node; empty where nothing is.

        `queries` names an array (batch, queries, …). Where the sum is to be `finite`, a query that may attend to
        nothing attends to everything alike, instead of giving NaN. Such a query is padding, whose values nobody reads.
        """
        value = ""
        for step, place in scores.steps:
            value = self._step(step, place, value, queries, before)
        if value and finite:
            value = self._put("Max", [value, self._least()], before)
        return self._rows(value, 4, queries, before) if value else ""

    def _step(self, step: onnx.NodeProto, place: int, value: str, queries: str, before: onnx.NodeProto) -> str:
        """What a step makes of what was added before it, which is nothing, an empty name, at first."""
        names = list(step.input)
        if step.op_type == "Where":
            names = [names[0], self._least(), self._least()]
            value = value or self._graph.add_constant("attention.none", np.float32(0))
        elif not value:
            return names[1 - place] if step.op_type == "Add" else ""
        elif step.op_type == "Reshape":
            if (self._shapes.get(value) or (None,))[0] == 1:  # the same for every head of every text
                first = self._graph.add_constant("attention.first", np.array([0], np.int64))
                return self._put("Unsqueeze", [value, first], before)
            value = self._rows(value, len(self._shapes.get(step.input[0], ())) or 3, queries, before)
        names[place] = value
        return self._put(step.op_type, names, before, step)

    def _put(self, kind: str, names: Sequence[str], before: onnx.NodeProto, like: onnx.NodeProto | None = None) -> str:
        """A node of a kind that reads these values, with the attributes of another; where there is one, its result."""
        attributes = [] if like is None else list(like.attribute)
        key = (kind.encode(), *(name.encode() for name in names), *(item.SerializeToString() for item in attributes))
        if key not in self._made:
            result = self._graph.unused_name(f"{names[0]}.{kind.lower()}")
            item = onnx.helper.make_node(kind, names, [result])
            item.attribute.extend(attributes)
            self._graph.insert_before(before, item)
            self._made[key] = result
            if kind == "Reshape":
                self._shapes[result] = (None, None, _QUERIES, None)
            elif kind != "Unsqueeze":
                self._shapes[result] = _broadcast([self._shapes.get(name) for name in names])
        return self._made[key]

    def _rows(self, value: str, rank: int, queries: str, before: onnx.NodeProto) -> str:
        """An array that is added to scores of this rank, with a row for each query."""
        result, shape = f"{value}.rows", self._shapes.get(value, ())
        if len(shape) > 1 and shape[-2] not in (None, 1):
            return value
        if self._graph.producer(result) is None:
            one_row_a_query(self._graph, value, before, queries, result, rank=rank)
            self._shapes[result] = (*(None,) * (rank - 2), _QUERIES, None)
        return result

    def _least(self) -> str:
        return self._graph.add_constant("attention.least", _LEAST)


def _broadcast(shapes: Sequence[Shape | None]) -> Shape:
    """The shape of what is computed element by element from arrays of such shapes, None for one that is not known."""
    rank = max((len(shape) for shape in shapes if shape), default=0)
    columns = zip(*((1,) * (rank - len(s)) + s if s is not None else (None,) * rank for s in shapes), strict=True)
    return tuple(
        next((axis for axis in column if axis not in (1, None)), None if None in column else 1) for column in columns
    )
