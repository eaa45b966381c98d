"""Attention that ONNX Runtime's optimizer does not recognise, as its `MultiHeadAttention` operator.

The optimizer knows the patterns of a few models. What they have in common is found here from the softmax outwards:

    softmax(scale * query @ key.T + bias + ...) @ value

Whatever is added to the scores (a mask, relative positions) becomes the operator's bias. Not found is attention whose
query also enters what is added to the scores before they are scaled, or that looks at blocks of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from untorch_export.graph.files import drop_unused

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LEAST = float(np.finfo(np.float32).min) / 2  # leaves room for the scores
_HEADS_INSIDE, _LAST_TWO, _KEYS = [0, 2, 1, 3], [0, 1, 3, 2], [0, 2, 3, 1]


@dataclass(frozen=True)
class _Scores:
    """Where scores come from: names of (batch, heads, sequence, size) arrays, the scale, and what is added."""

    query: str
    key: str
    scale: float | None
    added: tuple[str, ...] = ()


def fuse_attention(model: ModelProto, heads: int) -> None:
    """Replace every attention found in the graph by one operator, in place. `heads` is the model's number of them."""
    graph = _Graph(model)
    for softmax in [node for node in model.graph.node if node.op_type == "Softmax"]:
        scores = graph.scores(softmax.input[0])
        weights = graph.without_nan(softmax)
        context = graph.only_consumer(weights, "MatMul")
        merged = graph.only_consumer(context, "Transpose")
        result = graph.only_consumer(merged, "Reshape")
        if scores is None or context is None or merged is None or result is None:
            continue
        if _permutation(merged) != _HEADS_INSIDE or context.input[0] != weights.output[0]:
            continue
        inputs = [graph.joined(name) for name in (scores.query, scores.key, context.input[1])]
        if scores.added:
            inputs += ["", "", graph.bias(scores.added, inputs[0], finite=weights is not softmax)]
        graph.replace(result, inputs, heads, scores.scale)
    graph.finish()


class _Graph:
    """A graph being rewritten: who makes and who reads a name, nodes to insert, dead ones dropped at the end."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self._model = model
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._consumers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        # Node whose place they take → new nodes. The first reader of a shared one comes first in the graph.
        self._new: dict[str, list[NodeProto]] = {}
        self._pending: list[NodeProto] = []
        self._made: set[str] = set()

    def only_consumer(self, node: NodeProto | None, kind: str) -> NodeProto | None:
        consumers = self._consumers.get(node.output[0], []) if node is not None else []
        return consumers[0] if len(consumers) == 1 and consumers[0].op_type == kind else None

    def without_nan(self, softmax: NodeProto) -> NodeProto:
        """The softmax, or what replaces its NaN by 0: a row of scores of -inf, where a query may attend to nothing."""
        consumers = self._consumers.get(softmax.output[0], [])
        if sorted(node.op_type for node in consumers) != ["IsNaN", "Where"]:
            return softmax
        return next(node for node in consumers if node.op_type == "Where")

    def scores(self, name: str, scale: float = 1.0) -> _Scores | None:
        """Read scores backwards from their softmax, or None where they are something else."""
        node = self._producers.get(name)
        if node is None:
            return None
        if node.op_type == "Add" and scale == 1.0:  # what is added before scaling would have to be scaled, too
            for scored, added in (node.input, reversed(node.input)):
                if (found := self.scores(scored)) is not None:
                    return _Scores(found.query, found.key, found.scale, (*found.added, added))
            return None
        if node.op_type in ("Div", "Mul") and (factor := self._scalar(node.input[1])) is not None:
            return self.scores(node.input[0], scale * (1 / factor if node.op_type == "Div" else factor))
        if node.op_type != "MatMul" or any(part in self._constants for part in node.input):
            return None
        (query, first), (key, second) = (self._unscaled(part) for part in node.input)
        # Both times a square root: 1/sqrt(size) in all, which is the operator's default.
        default = first is None
        if default != (second is None):
            return None
        scale *= (first or 1.0) * (second or 1.0)
        transposed = self._producers.get(key)
        if transposed is None or transposed.op_type != "Transpose" or (default and scale != 1.0):
            return None
        if _permutation(transposed) == _KEYS:
            return _Scores(query, key, None if default else scale)
        if _permutation(transposed) == _LAST_TWO:
            return _Scores(query, transposed.input[0], None if default else scale)
        return None

    def joined(self, name: str) -> str:
        """The (batch, sequence, heads * size) form of a (batch, heads, sequence, size) array or transposed key."""
        node = self._producers[name]
        if node.op_type == "Transpose" and _permutation(node) in (_HEADS_INSIDE, _KEYS):
            split = self._producers[node.input[0]]
            if split.op_type == "Reshape":
                return split.input[0]
            order, source = [0, 1, 2, 3], node.input[0]
        else:
            order, source = _HEADS_INSIDE, name
        joined = f"{name}.joined"
        if joined not in self._made:
            self._made.add(joined)
            if order == _HEADS_INSIDE:
                self._add("Transpose", [source], f"{name}.inside", perm=order)
                source = f"{name}.inside"
            self._add("Reshape", [source, self._constant("attention.joined", [0, 0, -1])], joined)
        return joined

    def bias(self, added: tuple[str, ...], query: str, *, finite: bool) -> str:
        """What is added to the scores, as one array with an axis as long as the query's sequence.

        Where it is to be `finite`, a query that may attend to nothing attends to everything alike, instead of
        giving NaN. Such a query is padding, whose values nobody reads.
        """
        name = "+".join(added)
        bias = f"{name}.bias"
        if bias in self._made:
            return bias
        self._made.add(bias)
        total = added[0]
        for index, other in enumerate(added[1:]):
            total, before = f"{name}.sum{index}", total
            self._add("Add", [before, other], total)
        self._add("Shape", [query], f"{name}.length", start=1, end=2)
        one = self._constant("attention.one", [1])
        self._add("Concat", [one, one, f"{name}.length", one], f"{name}.shape", axis=0)
        if finite:
            self._add("Max", [total, self._constant("attention.least", _LEAST)], f"{name}.finite")
            total = f"{name}.finite"
        self._add("Expand", [total, f"{name}.shape"], bias)
        return bias

    def replace(self, result: NodeProto, inputs: list[str], heads: int, scale: float | None) -> None:
        attributes = {} if scale is None else {"scale": scale}
        self._add("MultiHeadAttention", inputs, result.output[0], domain="com.microsoft", num_heads=heads, **attributes)
        self._new[result.output[0]], self._pending = self._pending, []

    def finish(self) -> None:
        nodes = [new for old in self._model.graph.node for new in self._new.get(old.output[0], [old])]
        del self._model.graph.node[:]
        self._model.graph.node.extend(nodes)
        drop_unused(self._model.graph)

    def _unscaled(self, name: str) -> tuple[str, float | None]:
        """Without the factor with which PyTorch's own attention begins, and that factor; 1 where there is none.

        It is the root of the scale: None for the default, 1/sqrt(size), which is computed from the array's shape, and
        a number where the model names its scale.
        """
        node = self._producers.get(name)
        if node is None or node.op_type != "Mul":
            return name, 1.0
        if (factor := self._scalar(node.input[1])) is not None:
            return node.input[0], factor
        root = self._producers.get(node.input[1])
        if root is not None and root.op_type == "Sqrt" and root.input[0] not in self._constants:
            return node.input[0], None
        return name, 1.0

    def _scalar(self, name: str) -> float | None:
        value = self._constants.get(name)
        return float(value) if value is not None and value.size == 1 else None

    def _constant(self, name: str, values: list[int] | float) -> str:
        from onnx import numpy_helper

        if name not in self._made:
            self._made.add(name)
            array = np.array(values, np.float32 if isinstance(values, float) else np.int64)
            self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _add(self, kind: str, inputs: list[str], output: str, *, domain: str = "", **attributes: object) -> None:
        from onnx import helper

        self._pending.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))


def _permutation(node: NodeProto | None) -> list[int]:
    return [] if node is None else list(node.attribute[0].ints)
