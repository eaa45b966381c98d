"""ONNX files as such: reading, counting operators, writing with the weights outside. It does not know models."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from untorch.manifest import Graph, Tensor

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

# Tensors smaller than this stay in the graph file: shapes and scalars, which shape inference wants to see.
_INLINE_BYTES = 1024
# The ONNX specification advises page-aligned offsets, so that a reader can map a tensor by itself. It would
# waste a page on each bias, so small tensors get a cache line.
_PAGE, _CACHE_LINE, _PAGE_ALIGNED_BYTES = 4096, 64, 1 << 16

# ONNX Runtime's fused operators that the reports count, by what they are.
_FUSED = (
    "Attention",
    "QAttention",
    "MultiHeadAttention",
    "GroupQueryAttention",
    "PackedMultiHeadAttention",
    "EmbedLayerNormalization",
    "QEmbedLayerNormalization",
    "SkipLayerNormalization",
    "BiasGelu",
    "Gelu",
    "FastGelu",
)
ATTENTION = _FUSED[:5]


def save(model: ModelProto, path: Path) -> None:
    """Write `path` and `path_data`: the graph, and its weights as external data. The same model gives the same bytes.

    The model is changed: its weights move out, and what names this machine (doc strings, metadata) goes.
    """
    import onnx
    from onnx.external_data_helper import set_external_data

    _anonymise(model.graph)
    model.doc_string = ""
    del model.metadata_props[:]
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.with_name(f"{path.name}_data")
    with data.open("wb") as file:
        for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
            raw = onnx.numpy_helper.to_array(tensor).tobytes() if not tensor.HasField("raw_data") else tensor.raw_data
            if len(raw) < _INLINE_BYTES:
                continue
            alignment = _PAGE if len(raw) >= _PAGE_ALIGNED_BYTES else _CACHE_LINE
            file.write(bytes(-file.tell() % alignment))
            # set_external_data wants the bytes in raw_data, and leaves them there; to_array's form is cleared first.
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
            tensor.raw_data = raw
            set_external_data(tensor, data.name, offset=file.tell(), length=len(raw))
            tensor.ClearField("raw_data")
            file.write(raw)
    path.write_bytes(model.SerializeToString(deterministic=True))
    if not data.stat().st_size:
        data.unlink()


def save_beside(model: ModelProto, path: Path, other: Path) -> None:
    """Write `path`, a graph whose weights lie in the data file of `other` already; those that do not stay inside.

    Weights are recognised by their bytes. The model is changed, as by `save`.
    """
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, set_external_data

    data = other.with_name(f"{other.name}_data")
    stored = {}
    content = memoryview(data.read_bytes())
    for tensor in onnx.load(str(other), load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            info = ExternalDataInfo(tensor)
            raw = content[info.offset : info.offset + info.length]
            stored[hashlib.sha256(raw).digest()] = (info.offset, info.length)
    _anonymise(model.graph)
    model.doc_string = ""
    del model.metadata_props[:]
    for tensor in model.graph.initializer:
        raw = onnx.numpy_helper.to_array(tensor).tobytes()
        place = stored.get(hashlib.sha256(raw).digest()) if len(raw) >= _INLINE_BYTES else None
        if place is not None:
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
            tensor.raw_data = raw
            set_external_data(tensor, data.name, offset=place[0], length=place[1])
            tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString(deterministic=True))


def load(path: Path) -> ModelProto:
    """Read a graph and its external data."""
    import onnx

    return onnx.load(str(path))


def describe(
    path: Path,
    bundle: Path,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    *,
    data: Path | None = None,
    optimized: bool = False,
) -> Graph:
    """The manifest's entry for a graph file of a bundle, whose weights are in `data` (default: its own data file)."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    data = data or path.with_name(f"{path.name}_data")
    return Graph(
        file=path.relative_to(bundle).as_posix(),
        data=(data.relative_to(bundle).as_posix(),) if data.is_file() else (),
        inputs=inputs,
        outputs=outputs,
        fused=fused(model),
        optimized=optimized,
    )


def fused(model: ModelProto) -> dict[str, int]:
    """How many of each of ONNX Runtime's fused operators a graph has."""
    counts = Counter(node.op_type for node in model.graph.node if node.domain == "com.microsoft")
    return {name: counts[name] for name in _FUSED if counts[name]}


def reads(node: NodeProto) -> Iterator[str]:
    """The names that a node reads, those in its branches included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from reads(inner)


def check(model: ModelProto) -> None:
    """Raise onnx's ValidationError for a malformed graph. Operators of ONNX Runtime's own pass unseen.

    Some of those it keeps in the standard's name space, where the checker would look for them.
    """
    import onnx

    own = [node for node in model.graph.node if node.op_type == "SimplifiedLayerNormalization" and not node.domain]
    for node in own:
        node.domain = "com.microsoft"
    try:
        onnx.checker.check_model(model)
    finally:
        for node in own:
            node.domain = ""


def drop_unused(graph: GraphProto) -> None:
    """Remove every node and initializer that no output of the graph needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def set_shape(value: ValueInfoProto, axes: tuple[str | int, ...]) -> None:
    """Give a graph's input or output the axes: a name for a dynamic one, a number for a fixed one."""
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for axis in axes:
        dimension = shape.dim.add()
        if isinstance(axis, str):
            dimension.dim_param = axis
        else:
            dimension.dim_value = axis


def _anonymise(graph: GraphProto) -> None:
    """Drop doc strings and metadata, which hold stack traces and paths of the exporting machine."""
    graph.doc_string = ""
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("g"):
                _anonymise(attribute.g)
