"""An ONNX graph being rewritten: nodes replaced where they stand, constants added, what nobody reads dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from untorch_export.graph import files

Floats = NDArray[np.float32]

# The domain of ONNX Runtime's own operators.
CONTRIB = "com.microsoft"


class Graph:
    """A copy of a model's graph that is being rewritten. `finish` gives the new model; the old one stays as it is.

    Replacements take effect then: until it is called, everything else here tells of the graph as it was.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        old = model.graph
        # Without the weights: only those that are still read at the end are copied.
        copied = helper.make_graph(list(old.node), old.name, list(old.input), list(old.output))
        self._model = helper.make_model(
            copied, opset_imports=list(model.opset_import), ir_version=model.ir_version, producer_name="untorch"
        )
        self._constants = {tensor.name: tensor for tensor in old.initializer}
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
        self._outputs = {output.name for output in old.output}
        self._replacements: dict[str, list[onnx.NodeProto]] = {}

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the old graph, in its order."""
        return list(self._model.graph.node)

    def is_constant(self, name: str) -> bool:
        """Whether the graph holds the value of that name."""
        return name in self._constants

    def constant(self, name: str) -> Floats:
        """The value of a constant."""
        return numpy_helper.to_array(self._constants[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant."""
        return tuple(self._constants[name].dims)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that gives a name; None for inputs and constants."""
        return self._producers.get(name)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads a name, or None where there are several, or the graph gives the name out."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def add_constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        """Add a constant unless there is one of that name. Returns the name."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def add_output(self, name: str, kind: int, axes: list[str | int]) -> None:
        """Have the graph give out a name, of an element type (onnx.TensorProto's) and with such axes."""
        self._model.graph.output.append(helper.make_tensor_value_info(name, kind, axes))

    def append(self, node: onnx.NodeProto) -> None:
        """Add a node at the end."""
        self._model.graph.node.append(node)

    def replace(self, old: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
        """Put other nodes, or none, where a node stands."""
        self._replacements[old.output[0]] = new

    def finish(self, domains: Sequence[str] = ()) -> onnx.ModelProto:
        """The new model, with operators of these `domains` besides the old one's. Raises onnx's ValidationError."""
        graph = self._model.graph
        nodes = [new for old in graph.node for new in self._replacements.get(old.output[0], [old])]
        used = {name for node in nodes for name in files.reads(node)}
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in used)
        for domain in (CONTRIB, *domains):
            if all(known.domain != domain for known in self._model.opset_import):
                self._model.opset_import.append(helper.make_opsetid(domain, 1))
        files.check(self._model)
        return self._model


def node(kind: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """A new node with one output."""
    return helper.make_node(kind, inputs, [output], domain=domain, **attributes)


def attribute(of: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or `default` where it is not set."""
    found = next((item for item in of.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
