"""A graph for the head alone: where a head reads one token, the last layer works for that token only.

A classifier of the BERT family looks at the first token of the last layer. Every other row of that layer's queries,
attention output and feed-forward products is thrown away, about a seventh of the work of six layers. Here the
selection of the token moves up, past every operator that treats tokens one by one, to where rows last meet.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from untorch_export.graph.files import check, drop_unused

# What the selected row of a tensor is called.
SELECTED = ".selected"

# Operators whose output row i depends on row i alone of each input that has rows.
ROW_BY_ROW = {
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Tanh", "Erf", "Gelu", "FastGelu", "QuickGelu", "Relu", "Sigmoid",
    "Cast", "LayerNormalization", "SkipLayerNormalization", "BiasGelu", "Identity",
}  # fmt: skip


def head_only(model: onnx.ModelProto, output: str) -> onnx.ModelProto | None:
    """The part of a fused graph that computes `output`, its last layer cut to the one token that is read.

    Gives a new model that shares its weights' names with `model`, or None where the head does not select one token
    of a (batch, sequence, hidden) tensor with `Gather`, so that there is nothing to cut.
    """
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    for position in range(len(graph.output) - 1, -1, -1):
        if graph.output[position].name != output:
            del graph.output[position]
    drop_unused(graph)
    selection = next((node for node in graph.node if _selects_a_token(graph, node)), None)
    if selection is None or not _cut(graph, selection):
        return None
    drop_unused(graph)
    del graph.value_info[:]
    check(cut)
    return cut


def _cut(graph: onnx.GraphProto, selection: onnx.NodeProto) -> bool:
    """Make every node above the selection that can work on the selected row alone do so. False if none can."""
    constants = _constants(graph)
    cut = _cuttable(graph, selection, set(constants))
    if selection.input[0] not in cut:
        return False
    # One index in a list keeps the axis, so that everything below still broadcasts. The row's place is then 0.
    index, first = f"{selection.input[1]}.kept", f"{selection.input[1]}.first"
    row = np.asarray(constants[selection.input[1]], np.int64).reshape(1)
    graph.initializer.append(numpy_helper.from_array(row, index))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), first))
    selection.input[1] = first
    nodes: list[onnx.NodeProto] = []
    selected: set[str] = set()
    for node in graph.node:
        if set(node.output) & cut:
            for place in _row_inputs(node):
                name = node.input[place]
                if not name or name in constants or name in cut:
                    continue
                if name not in selected:
                    selected.add(name)
                    nodes.append(helper.make_node("Gather", [name, index], [f"{name}{SELECTED}"], axis=1))
                node.input[place] = f"{name}{SELECTED}"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _cuttable(graph: onnx.GraphProto, selection: onnx.NodeProto, constants: set[str]) -> set[str]:
    """Tensors of which nothing but the selected row is ever read, and whose producers can do with that row."""
    outputs = {value.name for value in graph.output}
    cut: set[str] = set()
    # Backwards: whether a tensor is needed whole depends on those that come after it.
    for node in reversed(graph.node):
        if len(node.output) != 1 or node.output[0] in outputs or not _works_by_rows(node, constants):
            continue
        name = node.output[0]
        readers = [reader for reader in graph.node if name in reader.input]
        if readers and all(_reads_by_rows(reader, name, selection, cut) for reader in readers):
            cut.add(name)
    return cut


def _works_by_rows(node: onnx.NodeProto, constants: set[str]) -> bool:
    if node.op_type == "MatMul":
        return node.input[1] in constants
    if node.op_type == "MultiHeadAttention":
        # A bias for every (query, key) pair would have to be cut too; the encoders that get here have none.
        return len(node.input) > 2 and all(node.input[:3]) and not (len(node.input) > 5 and node.input[5])
    return node.op_type in ROW_BY_ROW


def _reads_by_rows(reader: onnx.NodeProto, name: str, selection: onnx.NodeProto, cut: set[str]) -> bool:
    if reader is selection:
        return True
    places = [place for place, other in enumerate(reader.input) if other == name]
    return reader.output[0] in cut and set(places) <= set(_row_inputs(reader))


def _row_inputs(node: onnx.NodeProto) -> range:
    """Places of the inputs that have rows: of attention only the queries, since each meets all keys and values."""
    return range(1 if node.op_type in ("MatMul", "MultiHeadAttention") else len(node.input))


def _selects_a_token(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    if node.op_type != "Gather" or not any(a.name == "axis" and a.i == 1 for a in node.attribute):
        return False
    constants = _constants(graph)
    return node.input[0] not in constants and np.shape(constants.get(node.input[1], [0])) == ()


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values that are known: initializers, and what `Constant` nodes give."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return known
