"""Graphs that more readers can run: what ONNX Runtime's CPU provider or an older reader lacks, in operators it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, inliner

from untorch_export.graph import files
from untorch_export.graph.layouts import one_row_a_query
from untorch_export.graph.rewriting import Graph, attribute, given, node
from untorch_export.graph.shapes import infer

# Operators that OPSET does not have, and whose definition in older ones comes with the standard.
_NEW = ("Attention", "RotaryEmbedding", "RMSNormalization")
# The place of a mask among the inputs of Attention.
_MASK = 3
# The standard's opset that ONNX Runtime 1.20 reads, and the version of the file format that came with it.
OPSET, _IR_VERSION = 21, 10


def expand_rotary_caches(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new model whose `RotaryEmbedding` nodes get angles for every row of a batch.

    The standard lets one row of cosines and sines, of shape (1, sequence, size / 2), serve a whole batch. ONNX
    Runtime's CPU provider refuses that (version 1.32), so that the row is repeated here. A cache that has a row for
    each text stays as it is.
    """
    graph = Graph(model)
    shapes = infer(graph)
    expanded: dict[str, str] = {}
    for rotary in graph.of("RotaryEmbedding"):
        names = list(rotary.input)
        if any(names[3:]):  # positions of its own: the cache is a table that has no rows
            continue
        rows = shapes.get(names[0], (None,))[0]
        for place in (1, 2):
            cache = names[place]
            if cache not in expanded and shapes.get(cache, (None,))[0] in (None, 1) and rows != 1:
                expanded[cache] = graph.unused_name(f"{cache}.rows")
                graph.insert_before(rotary, *_repeated(graph, cache, names[0], expanded[cache]))
            names[place] = expanded.get(cache, cache)
        graph.set_inputs(rotary, names)
    return graph.finish() if expanded else model


def expand_masks(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new model whose `Attention` nodes get masks with a row for every query.

    The standard lets one row, of shape (…, 1, keys), serve all queries of a text, which is how masks of padding are
    written. ONNX Runtime's CPU provider refuses that (version 1.32).
    """
    graph = Graph(model)
    shapes = infer(graph)
    expanded: dict[str, str] = {}
    for item in graph.of("Attention"):
        mask, axes = given(item, _MASK), shapes.get(given(item, _MASK), ())
        if item.domain or len(axes) < 2 or axes[-2] != 1:
            continue
        if mask not in expanded:
            expanded[mask] = graph.unused_name(f"{mask}.rows")
            sequence = 1 if attribute(item, "q_num_heads", 0) else 2
            one_row_a_query(graph, mask, item, item.input[0], expanded[mask], sequence=sequence)
        graph.set_inputs(item, [*item.input[:_MASK], expanded[mask], *item.input[_MASK + 1 :]])
    return graph.finish() if expanded else model


def _repeated(graph: Graph, cache: str, like: str, result: str) -> list[onnx.NodeProto]:
    """`cache` (1, sequence, size) with as many rows as `like` has."""
    ones = graph.add_constant("rotary.ones", np.array([1, 1], np.int64))
    return [
        node("Shape", [like], f"{result}.count", start=0, end=1),
        node("Concat", [f"{result}.count", ones], f"{result}.shape", axis=0),
        node("Expand", [cache, f"{result}.shape"], result),
    ]


def rewrite(path: Path) -> None:
    """Write a graph file once more as `inline` makes it; its weights stay where they are, in their own files."""
    model = onnx.load(str(path), load_external_data=False)
    older = inline(model)
    if older is not model:
        files.write(older, path)


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new model of the standard's OPSET, with what is newer written out in older operators.

    `Attention`, `RotaryEmbedding` and `RMSNormalization` become the small
    operators that the standard defines them by. Raises onnx's ValidationError where anything else is newer.
    """
    standard = next(item for item in model.opset_import if not item.domain)
    if standard.version <= OPSET:
        return model
    # Without the weights, since the inliner takes no more than 2 GB. It wants to be told all types, of weights too.
    typed = onnx.shape_inference.infer_shapes(Graph(model).outline())
    for tensor in typed.graph.initializer:
        declared = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        typed.graph.value_info.append(declared)
    inlined = inliner.inline_selected_functions(typed, [("", kind) for kind in _NEW], inline_schema_functions=True)
    old = model.graph
    made = helper.make_model(
        helper.make_graph(inlined.graph.node, old.name, old.input, old.output, old.initializer),
        opset_imports=[helper.make_opsetid("", OPSET), *(item for item in model.opset_import if item.domain)],
        ir_version=min(model.ir_version, _IR_VERSION),
        producer_name="untorch",
    )
    graph = Graph(made)
    graph.drop_unused()
    return graph.finish()
