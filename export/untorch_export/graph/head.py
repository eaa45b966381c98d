"""A graph for the head alone: where a head reads one token, the last layer works for that token only.

A classifier of the BERT family looks at the first token of the last layer. Every other row of that layer's queries,
attention output and feed-forward products is thrown away, about a seventh of the work of six layers. Here the
selection of the token moves up, past every operator that treats tokens one by one, to where rows last meet.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx

from untorch_export.graph.attention import read
from untorch_export.graph.rewriting import Graph, attribute, node

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
    graph = Graph(model)
    graph.outputs = [value for value in graph.outputs if value.name == output]
    graph.drop_unused()
    selection = next((item for item in graph.nodes if _selects_a_token(graph, item)), None)
    if selection is None:
        return None
    cut = _cuttable(graph, selection)
    if selection.input[0] not in cut:
        return None
    _cut(graph, selection, cut)
    graph.drop_unused()
    return graph.finish()


def _cut(graph: Graph, selection: onnx.NodeProto, cut: Container[str]) -> None:
    """Have every node that makes one of the values `cut` work on the selected row alone."""
    # One index in a list keeps the axis, so that everything below still broadcasts. The row's place is then 0.
    source, row = selection.input
    index = graph.add_constant(f"{row}.kept", graph.constant(row).astype(np.int64).reshape(1))
    first = graph.add_constant(f"{row}.first", np.array(0, np.int64))
    graph.set_inputs(selection, [source, first])
    for item in graph.nodes:
        if item.output[0] not in cut:
            continue
        names = list(item.input)
        for place in _row_inputs(item):
            name = names[place]
            if name and name not in cut and not graph.is_constant(name):
                names[place] = f"{name}{SELECTED}"
                if graph.producer(names[place]) is None:
                    graph.insert_before(item, node("Gather", [name, index], names[place], axis=1))
        graph.set_inputs(item, names)


def _cuttable(graph: Graph, selection: onnx.NodeProto) -> set[str]:
    """Tensors of which nothing but the selected row is ever read, and whose producers can do with that row."""
    cut: set[str] = set()
    # Backwards: whether a tensor is needed whole depends on those that come after it.
    for item in reversed(graph.nodes):
        if len(item.output) != 1 or graph.gives(item.output[0]) or not _works_by_rows(graph, item):
            continue
        name = item.output[0]
        readers = graph.readers(name)
        if readers and all(_reads_by_rows(reader, name, selection, cut) for reader in readers):
            cut.add(name)
    return cut


def _works_by_rows(graph: Graph, item: onnx.NodeProto) -> bool:
    if item.op_type == "MatMul":
        return graph.is_constant(item.input[1])
    if (layer := read(item)) is not None:
        # What is added for every (query, key) pair would have to be cut too; the encoders that get here have none.
        return not layer.added and not layer.causal
    return item.op_type in ROW_BY_ROW


def _reads_by_rows(reader: onnx.NodeProto, name: str, selection: onnx.NodeProto, cut: Container[str]) -> bool:
    if reader is selection:
        return True
    places = [place for place, other in enumerate(reader.input) if other == name]
    return reader.output[0] in cut and set(places) <= set(_row_inputs(reader))


def _row_inputs(item: onnx.NodeProto) -> range:
    """Places of the inputs that have rows: of attention only the queries, since each meets all keys and values."""
    return range(1 if item.op_type == "MatMul" or read(item) is not None else len(item.input))


def _selects_a_token(graph: Graph, item: onnx.NodeProto) -> bool:
    if item.op_type != "Gather" or attribute(item, "axis", 0) != 1:
        return False
    table, place = item.input
    return not graph.is_constant(table) and graph.is_constant(place) and graph.shape(place) == ()
