"""Masks that say no more than which keys are padding, told from those that differ from query to query.

The models make a mask (batch, 1, queries, keys) out of the attention mask (batch, keys), in many small steps. Where all
queries get the same, the fused operators want the small one.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from untorch_export.graph.rewriting import Graph, attribute, node
from untorch_export.graph.shapes import Shape

_RANK = 4


class KeyMasks:
    """Finds the attention mask behind the masks of a graph's layers."""

    def __init__(self, graph: Graph, shapes: Mapping[str, Shape]) -> None:
        self._graph = graph
        self._shapes = shapes

    def find(self, mask: str, before: onnx.NodeProto) -> str:
        """The name of a mask (batch, keys), int32, to which a mask (batch, 1, queries, keys) comes down; or empty.

        A mask comes down to it where it is true for exactly the keys at which the other is not 0, for every query.
        Where there is no such mask in int32 yet, it is made `before` a node.
        """
        source = self._source(mask) if len(self._shapes.get(mask, ())) == _RANK else ""
        if not source:
            return ""
        result = f"{source}.keys"
        if self._graph.producer(result) is None:
            self._graph.insert_before(before, node("Cast", [source], result, to=TensorProto.INT32))
        return result

    def is_bool(self, name: str) -> bool:
        """Whether a mask is true and false, rather than something to add."""
        made_by = self._graph.producer(name)
        if made_by is None:
            return self._declared_bool(name)
        if made_by.op_type in ("And", "Or", "Not", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
            return True
        if made_by.op_type == "Cast":
            return attribute(made_by, "to", None) == TensorProto.BOOL
        place = 1 if made_by.op_type == "Where" else 0
        return bool(made_by.input) and self.is_bool(made_by.input[place])

    def _declared_bool(self, name: str) -> bool:
        if self._graph.is_constant(name):
            return bool(self._graph.constant(name).dtype == bool)
        kinds = {value.name: value.type.tensor_type.elem_type for value in self._graph.inputs}
        return kinds.get(name) == TensorProto.BOOL

    def _source(self, name: str) -> str:
        """The mask (batch, keys) that a value equals along its first and its last axis; empty if there is none."""
        made_by = self._graph.producer(name)
        if made_by is None:
            return ""
        if made_by.op_type == "And":
            first, second = made_by.input
            if self._is_true(first):
                return self._source(second)
            return self._source(first) if self._is_true(second) else ""
        if made_by.op_type == "Expand":
            return self._source(made_by.input[0]) if len(self._shapes.get(made_by.input[0], ())) == _RANK else ""
        if made_by.op_type in ("Unsqueeze", "Cast"):
            return self._widened(name)
        return self._gathered(made_by) if made_by.op_type == "GatherND" else ""

    def _widened(self, name: str) -> str:
        """The mask behind axes of length 1 put in between, and behind a Cast to true and false."""
        cast = False
        while (made_by := self._graph.producer(name)) is not None:
            if made_by.op_type == "Cast" and attribute(made_by, "to", None) == TensorProto.BOOL:
                cast = True
            elif made_by.op_type == "Unsqueeze" and self._graph.is_constant(made_by.input[1]):
                rank = len(self._shapes.get(name, ()))
                axes = {int(axis) % rank for axis in self._graph.constant(made_by.input[1])} if rank else {0}
                if axes & {0, rank - 1}:
                    return ""
            elif made_by.op_type != "Cast" or cast:
                break
            else:
                return ""
            name = made_by.input[0]
        return name if cast and len(self._shapes.get(name, ())) == 2 else ""

    def _is_true(self, name: str) -> bool:
        """Whether a value is true everywhere."""
        if self._graph.is_constant(name):
            return bool(self._graph.constant(name).all())
        made_by = self._graph.producer(name)
        if made_by is None:
            return False
        if made_by.op_type == "And":
            return all(map(self._is_true, made_by.input))
        if made_by.op_type in ("Expand", "Unsqueeze"):
            return self._is_true(made_by.input[0])
        least = self._graph.scalar(made_by.input[1]) if made_by.op_type == "GreaterOrEqual" else None
        return least is not None and least <= 0 and self._counted(made_by.input[0]) is not None

    def _gathered(self, gather: onnx.NodeProto) -> str:
        """The mask (batch, keys) that a GatherND reads at each (batch, …, key), as torch.vmap's indexing is traced."""
        table, places = gather.input
        pair = self._graph.upstream(places, "Concat")
        if attribute(gather, "batch_dims", 0) or not pair or len(pair[0].input) != 2:
            return ""
        # With the two indices along a last axis of their own.
        wanted = [(_RANK + 1, 0), (_RANK + 1, _RANK - 1)]
        if [self._counted(name) for name in pair[0].input] != wanted or attribute(pair[0], "axis", 0) not in (
            -1,
            _RANK,
        ):
            return ""
        return self._widened(table)

    def _counted(self, name: str) -> tuple[int, int] | None:
        """(rank, axis) of a value that counts 0, 1, 2, … along one of its axes and is the same along all others."""
        made_by = self._graph.producer(name)
        if made_by is None:
            return None
        if made_by.op_type == "Range":
            return (1, 0) if [self._graph.scalar(made_by.input[place]) for place in (0, 2)] == [0, 1] else None
        if made_by.op_type not in ("Unsqueeze", "Expand") or (below := self._counted(made_by.input[0])) is None:
            return None
        rank, axis = below
        if made_by.op_type == "Expand":
            wide = len(self._shapes.get(name, ()))
            return (wide, axis + wide - rank) if wide else None
        if not self._graph.is_constant(made_by.input[1]):
            return None
        new = self._graph.constant(made_by.input[1])
        wide = rank + len(new)
        added = {int(place) % wide for place in new}
        return wide, [place for place in range(wide) if place not in added][axis]
