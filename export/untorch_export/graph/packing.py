"""Padding removal: between the embeddings and the head, tokens alone instead of padded rows.

One gather makes a list of the tokens of all rows, packed attention knows where each row begins, and another gather puts
them back. By which indices, the host says: they are inputs of the graph (`untorch.ort.cuda.packing`). Packed attention
is ONNX Runtime's and runs on CUDA only.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from untorch.ort.cuda.packing import INDICES, MASK, OFFSET, PLACES, STARTS, TOKENS
from untorch_export.graph.attention import Attention, read
from untorch_export.graph.head import ROW_BY_ROW
from untorch_export.graph.rewriting import CONTRIB, Graph, node


def pack(fused: onnx.ModelProto) -> onnx.ModelProto | None:
    """A new model without padding in its layers, or None where the architecture does not allow it.

    It does where every layer's attention looks at one mask of keys and adds nothing else to the scores. The new model
    takes the INDICES of `untorch.ort.cuda.packing` as well, and no mask, unless something else reads it.
    """
    graph = Graph(fused)
    attention = {id(item): layer for item in graph.nodes if (layer := read(item)) is not None}
    if not attention or not all(map(_packable, attention.values())):
        return None
    first = graph.upstream(next(iter(attention.values())).query, "MatMul")
    if not first or MASK not in {value.name for value in graph.inputs}:
        return None
    packing = _Packing(graph, first[0].input[0])
    for item in graph.nodes:
        packing.take(item, attention.get(id(item)))
    for value in graph.outputs:
        if value.name in packing.packed:
            packing.restore(value.name)
    graph.drop_unused()
    _take_indices(graph)
    return graph.finish()


def _packable(layer: Attention) -> bool:
    return bool(layer.key_mask) and not layer.added and not layer.causal


class _Packing:
    """The values of a graph whose padding is removed, from `start` (rows, sequence, hidden) on, node after node."""

    def __init__(self, graph: Graph, start: str) -> None:
        self._graph = graph
        self._start = start
        self._restored = {start: start}
        # Name → name of its form without padding.
        self.packed = {start: f"{start}.tokens"}

    def take(self, item: onnx.NodeProto, layer: Attention | None) -> None:
        """Have a node work on tokens alone where it can, and give it the rows back where it cannot."""
        if layer is not None and all(name in self.packed for name in layer.parts):
            self.packed[layer.output] = f"{layer.output}.tokens"
            self._graph.replace(item, [_packed_attention(layer, self.packed)])
        elif self._works_by_tokens(item):
            self.packed.update((name, f"{name}.tokens") for name in item.output if name)
            self._graph.set_inputs(item, [self.packed.get(name, name) for name in item.input])
            self._graph.set_outputs(item, [self.packed.get(name, "") for name in item.output])
        else:
            names = [self.restore(name, item) if name in self.packed else name for name in item.input]
            self._graph.set_inputs(item, names)
        if self._start in item.output:
            self._graph.insert_after(item, *_tokens_of(self._start))

    def restore(self, name: str, before: onnx.NodeProto | None = None) -> str:
        """The name of a packed value with its padding, put there `before` a node or at the end of the graph."""
        if name not in self._restored:
            self._restored[name] = name if self._graph.gives(name) else f"{name}.padded"
            gather = node("Gather", [self.packed[name], PLACES], self._restored[name], axis=0)
            if before is None:
                self._graph.append(gather)
            else:
                self._graph.insert_before(before, gather)
        return self._restored[name]

    def _works_by_tokens(self, item: onnx.NodeProto) -> bool:
        """Whether a node treats tokens one by one and has them in a list."""
        names = [name for name in item.input if name]
        if not any(name in self.packed for name in names):
            return False
        if item.op_type == "MatMul":
            return names[0] in self.packed and self._graph.is_constant(names[1])
        return item.op_type in ROW_BY_ROW and all(
            name in self.packed or self._graph.is_constant(name) for name in names
        )


def _packed_attention(layer: Attention, packed: Mapping[str, str]) -> onnx.NodeProto:
    names = [*(packed[name] for name in layer.parts), layer.bias, OFFSET, STARTS]
    return node("PackedMultiHeadAttention", names, packed[layer.output], domain=CONTRIB, **layer.attributes)


def _tokens_of(start: str) -> list[onnx.NodeProto]:
    """From rows (rows, sequence, hidden) to the list of their tokens (tokens, hidden)."""
    return [
        node("Flatten", [start], f"{start}.flat", axis=2),
        node("Gather", [f"{start}.flat", TOKENS], f"{start}.tokens", axis=0),
    ]


def _take_indices(graph: Graph) -> None:
    """Declare the indices as inputs, and the mask no longer if nothing reads it."""
    if not graph.readers(MASK):
        graph.inputs = [value for value in graph.inputs if value.name != MASK]
    graph.inputs += [helper.make_tensor_value_info(item.name, TensorProto.INT32, item.axes) for item in INDICES]
