"""An ONNX graph that is being changed: the one place that knows which node makes a value and which nodes read it.

Every pass over a graph works on a `Graph`. Who makes and who reads a value is kept up to date with each edit, and an
edit takes time in proportion to what it changes, not to the size of the graph.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Floats = NDArray[np.float32]

# The domain of ONNX Runtime's own operators.
CONTRIB = "com.microsoft"

# Weights of so many elements, and no more, may say something of other values' shapes.
_SMALL = 64


class Graph:
    """A copy of a model's graph to be changed. `finish` gives the new model; the old one stays as it is.

    Nodes are changed through the methods here only, since setting `node.input` directly would go unnoticed. Weights
    are not copied before `finish`, and then only those that are still read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        old = model.graph
        self._old = model
        self.inputs = [_copied(value) for value in old.input]
        self.outputs = [_copied(value) for value in old.output]
        # Nodes stand in slots: one node each in the beginning, and what is inserted shares the slot of its neighbour.
        # The first slot is for what is put before everything else.
        self._slots: list[list[onnx.NodeProto]] = [[]]
        self._slot_of: dict[int, int] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._readers: dict[str, dict[int, onnx.NodeProto]] = {}
        self._weights = {tensor.name: tensor for tensor in old.initializer}
        for item in old.node:
            self.append(_copied(item))

    # ---- reading ----

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes in order, as a list of its own: the graph may be changed while one walks over it."""
        return [item for slot in self._slots for item in slot]

    def of(self, *kinds: str) -> list[onnx.NodeProto]:
        """The nodes whose operator has one of these names, in order."""
        return [item for item in self.nodes if item.op_type in kinds]

    def __contains__(self, item: onnx.NodeProto) -> bool:
        """Whether a node is still part of the graph."""
        return id(item) in self._slot_of

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value; None for the graph's inputs and weights."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value, each once. A node reads what the graphs inside it (`If`, `Loop`) read."""
        return list(self._readers.get(name, {}).values())

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads a value, or None where there are several, or the graph gives the value out."""
        readers = self._readers.get(name, {})
        return next(iter(readers.values())) if len(readers) == 1 and not self.gives(name) else None

    def gives(self, name: str) -> bool:
        """Whether a value is an output of the graph."""
        return any(value.name == name for value in self.outputs)

    def upstream(self, name: str, *kinds: str) -> list[onnx.NodeProto]:
        """The nodes above a value, one of each of these operators along their first inputs; empty if it is not so.

        graph.upstream("query", "Transpose", "Reshape") -> [the Transpose that makes "query", the Reshape before it]
        """
        found: list[onnx.NodeProto] = []
        for kind in kinds:
            made_by = self.producer(found[-1].input[0] if found else name)
            if made_by is None or made_by.op_type != kind:
                return []
            found.append(made_by)
        return found

    def downstream(self, name: str, *kinds: str) -> list[onnx.NodeProto]:
        """The nodes below a value, one of each of these operators, each the only reader of the last; or empty."""
        found: list[onnx.NodeProto] = []
        for kind in kinds:
            reader = self.only_reader(found[-1].output[0] if found else name)
            if reader is None or reader.op_type != kind:
                return []
            found.append(reader)
        return found

    # ---- constants ----

    def is_constant(self, name: str) -> bool:
        """Whether a value is known: a weight, or what a `Constant` node gives."""
        return name in self._weights or self._constant_node(name) is not None

    def constant(self, name: str) -> NDArray[Any]:
        """The value of a constant. Raises KeyError for anything else."""
        if name in self._weights:
            return numpy_helper.to_array(self._weights[name])
        if (made_by := self._constant_node(name)) is None:
            raise KeyError(name)
        return numpy_helper.to_array(made_by.attribute[0].t)

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element; None for anything else."""
        value = self.constant(name) if self.is_constant(name) else None
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant. Raises KeyError for anything else."""
        return tuple(self._weights[name].dims) if name in self._weights else self.constant(name).shape

    def add_constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        """Add a constant unless there is one of that name. Returns the name."""
        if name not in self._weights:
            self.set_constant(name, value)
        return name

    def set_constant(self, name: str, value: NDArray[np.generic] | np.generic) -> None:
        """Give a constant another value, or add it."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        made_by = self._constant_node(name)
        if made_by is None:
            self._weights[name] = numpy_helper.from_array(array, name)
        else:
            made_by.attribute[0].t.CopyFrom(numpy_helper.from_array(array, made_by.attribute[0].t.name))

    @property
    def weights(self) -> list[str]:
        """The names of the weights."""
        return list(self._weights)

    def _constant_node(self, name: str) -> onnx.NodeProto | None:
        made_by = self._producers.get(name)
        known = made_by is not None and made_by.op_type == "Constant" and made_by.attribute[0].name == "value"
        return made_by if known else None

    # ---- editing ----

    def append(self, *new: onnx.NodeProto) -> None:
        """Add nodes at the end."""
        for item in new:
            self._slots.append([])
            self._put(len(self._slots) - 1, 0, item)

    def prepend(self, *new: onnx.NodeProto) -> None:
        """Add nodes before all others, in the order given."""
        self._put(0, 0, *new)

    def insert_before(self, item: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Put nodes right before a node, in the order given."""
        slot, place = self._place(item)
        self._put(slot, place, *new)

    def insert_after(self, item: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Put nodes right behind a node, in the order given."""
        slot, place = self._place(item)
        self._put(slot, place + 1, *new)

    def replace(self, item: onnx.NodeProto, new: Iterable[onnx.NodeProto] = ()) -> None:
        """Put other nodes, or none, where a node stands."""
        slot, place = self._place(item)
        self.remove(item)
        self._put(slot, place, *new)

    def remove(self, *items: onnx.NodeProto) -> None:
        """Take nodes out."""
        for item in items:
            slot, place = self._place(item)
            del self._slots[slot][place], self._slot_of[id(item)]
            self._forget_reads(item)
            for name in item.output:
                if self._producers.get(name) is item:
                    del self._producers[name]

    def set_inputs(self, item: onnx.NodeProto, names: Sequence[str]) -> None:
        """Have a node read these values, by place."""
        self._forget_reads(item)
        item.input[:] = names
        self._note_reads(item)

    def set_outputs(self, item: onnx.NodeProto, names: Sequence[str]) -> None:
        """Give what a node makes these names, by place. Who reads the old names goes on doing so."""
        for name in item.output:
            if self._producers.get(name) is item:
                del self._producers[name]
        item.output[:] = names
        self._producers.update((name, item) for name in names if name)

    def redirect(self, old: str, new: str) -> None:
        """Have every node that reads the value `old` read the value `new`."""
        for reader in self.readers(old):
            self._forget_reads(reader)
            _rename_reads(reader, {old: new})
            self._note_reads(reader)

    def unused_name(self, name: str) -> str:
        """`name`, or `name` and a number where the graph has a value of that name already."""
        taken = (self._weights, self._producers, {value.name for value in self.inputs})
        found, count = name, 0
        while any(found in names for names in taken):
            count += 1
            found = f"{name}.{count}"
        return found

    def add_output(self, name: str, kind: int, axes: Sequence[str | int] | None) -> None:
        """Have the graph give out a value, of an element type (onnx.TensorProto's) and with such axes."""
        self.outputs.append(helper.make_tensor_value_info(name, kind, axes))

    def drop_unused(self) -> None:
        """Remove every node whose results no output of the graph needs."""
        waiting = [made_by for value in self.outputs if (made_by := self.producer(value.name)) is not None]
        needed = {id(item) for item in waiting}
        while waiting:
            for made_by in map(self.producer, reads(waiting.pop())):
                if made_by is not None and id(made_by) not in needed:
                    needed.add(id(made_by))
                    waiting.append(made_by)
        self.remove(*[item for item in self.nodes if id(item) not in needed])

    def sort(self) -> None:
        """Bring the nodes into an order in which each comes after those whose values it reads.

        Raises ValueError for a graph with a circle.
        """
        nodes = self.nodes
        place = {id(item): index for index, item in enumerate(nodes)}
        made_by = [{id(p) for p in map(self.producer, reads(item)) if p is not None} for item in nodes]
        left = [len(producers) for producers in made_by]
        ready = [index for index, count in enumerate(left) if not count]
        order: list[int] = []
        while ready:
            index = heapq.heappop(ready)  # the earliest of those that may come, so that a sorted graph stays as it is
            order.append(index)
            following = {place[id(reader)] for name in nodes[index].output for reader in self.readers(name) if name}
            for other in following:
                left[other] -= 1
                if not left[other]:
                    heapq.heappush(ready, other)
        if len(order) < len(nodes):
            raise ValueError("the graph has a circle")
        self._slots = [[], *([nodes[index]] for index in order)]
        self._slot_of = {id(slot[0]): place for place, slot in enumerate(self._slots) if slot}

    def finish(self) -> onnx.ModelProto:
        """The new model, which declares every domain that its operators are from.

        Raises onnx's ValidationError for a graph that is malformed.
        """
        check(self._model(whole=False))
        return self._model()

    def outline(self) -> onnx.ModelProto:
        """The model as it is now with its large weights declared as inputs: for what needs no more than their shapes.

        It stays small, whatever the model weighs; ONNX's own tools take no more than 2 GB.
        """
        return self._model(whole=False)

    def _model(self, *, whole: bool = True) -> onnx.ModelProto:
        nodes = self.nodes
        used = {name for item in nodes for name in reads(item)} | {value.name for value in self.outputs}
        known = {opset.domain for opset in self._old.opset_import}
        added = dict.fromkeys(item.domain for item in nodes if item.domain not in known)
        weights = [tensor for name, tensor in self._weights.items() if name in used]
        outside = [tensor for tensor in weights if not whole and math.prod(tensor.dims) > _SMALL]
        declared = {value.name for value in self.inputs}
        inputs = [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in outside
            if tensor.name not in declared
        ]
        kept = [tensor for tensor in weights if whole or math.prod(tensor.dims) <= _SMALL]
        return helper.make_model(
            helper.make_graph(nodes, self._old.graph.name, [*self.inputs, *inputs], self.outputs, kept),
            opset_imports=[*self._old.opset_import, *(helper.make_opsetid(domain, 1) for domain in added)],
            ir_version=self._old.ir_version,
            producer_name="untorch",
            functions=list(self._old.functions),
        )

    # ---- upkeep ----

    def _place(self, item: onnx.NodeProto) -> tuple[int, int]:
        slot = self._slot_of[id(item)]
        return slot, next(place for place, other in enumerate(self._slots[slot]) if other is item)

    def _put(self, slot: int, place: int, *new: onnx.NodeProto) -> None:
        self._slots[slot][place:place] = new
        for item in new:
            self._slot_of[id(item)] = slot
            self._producers.update((name, item) for name in item.output if name)
            self._note_reads(item)

    def _note_reads(self, item: onnx.NodeProto) -> None:
        for name in filter(None, reads(item)):
            self._readers.setdefault(name, {})[id(item)] = item

    def _forget_reads(self, item: onnx.NodeProto) -> None:
        for name in filter(None, reads(item)):
            self._readers[name].pop(id(item), None)


def node(kind: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """A new node with one output."""
    return helper.make_node(kind, inputs, [output], domain=domain or None, **attributes)


def attribute(of: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or `default` where it is not set."""
    found = next((item for item in of.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def given(of: onnx.NodeProto, place: int) -> str:
    """The name of a node's input at a place; empty where it is left out."""
    return of.input[place] if place < len(of.input) else ""


def reads(of: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, those in the graphs inside it included."""
    yield from of.input
    for item in of.attribute:
        for inner in item.g.node:
            yield from reads(inner)


def check(model: onnx.ModelProto) -> None:
    """Raise onnx's ValidationError for a malformed graph. Operators of ONNX Runtime's own pass unseen.

    Some of those it keeps in the standard's name space, where the checker would look for them.
    """
    own = [item for item in model.graph.node if item.op_type == "SimplifiedLayerNormalization" and not item.domain]
    for item in own:
        item.domain = CONTRIB
    try:
        onnx.checker.check_model(model)
    finally:
        for item in own:
            item.domain = ""


def _rename_reads(of: onnx.NodeProto, names: Mapping[str, str]) -> None:
    of.input[:] = [names.get(name, name) for name in of.input]
    for item in of.attribute:
        for inner in item.g.node:
            _rename_reads(inner, names)


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
