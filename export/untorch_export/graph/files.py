"""ONNX files as such: reading, counting operators, writing with the weights outside. It does not know models."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from untorch.bundle.manifest import GraphFile
from untorch.numerics import Tensor
from untorch.ort.kernels import DOMAIN

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

# Tensors smaller than this stay in the graph file: shapes and scalars, which shape inference wants to see.
_INLINE_BYTES = 1024
# The ONNX specification advises page-aligned offsets, so that a reader can map a tensor by itself. It would
# waste a page on each bias, so small tensors get a cache line.
_PAGE, _CACHE_LINE, _PAGE_ALIGNED_BYTES = 4096, 64, 1 << 16

# The fused operators that the reports count, by what they are.
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
    "Linear",
)
ATTENTION = _FUSED[:5]

# Where a tensor's bytes lie, by their digest: the name of a file in the graph's folder, and the offset in it.
Places = dict[bytes, tuple[str, int]]


def save(model: ModelProto, path: Path, *, elsewhere: Places | None = None) -> None:
    """Write `path` and `path_data`: the graph, and its weights as external data. The same model gives the same bytes.

    Weights that lie `elsewhere` already, in another file of the folder, are not written again. The model is changed:
    its weights move out, and what names this machine (doc strings, metadata) goes.
    """
    weights = _weights(model)
    places = elsewhere or {}
    own = [tensor for digest, tensor in weights.items() if digest not in places]
    places = places | _write_data(own, path.with_name(f"{path.name}_data"))
    for tensor in model.graph.initializer:
        raw = _content(tensor)
        if len(raw) >= _INLINE_BYTES:
            _move_out(tensor, raw, places[_digest(raw)])
    write(model, path)


def save_shared(models: Sequence[ModelProto], data: Path) -> Places:
    """Write the weights that all of the `models` hold to the file `data`, and say where they lie: for `save`."""
    first, *others = map(_weights, models)
    return _write_data([first[digest] for digest in first if all(digest in other for other in others)], data)


def save_beside(model: ModelProto, path: Path, other: Path) -> None:
    """Write `path`, a graph whose weights lie in data files of the graph `other` already; others stay inside.

    The model is changed, as by `save`.
    """
    stored = _Stored(other)
    for tensor in model.graph.initializer:
        raw = _content(tensor)
        place = None if len(raw) < _INLINE_BYTES else stored.whole(raw) or stored.part(raw)
        if place is not None:
            _move_out(tensor, raw, place)
    write(model, path)


class _Stored:
    """The weights that a graph has outside, recognised by their bytes."""

    def __init__(self, path: Path) -> None:
        from onnx.external_data_helper import ExternalDataInfo

        self._files: dict[str, memoryview] = {}
        self._places: Places = {}
        for tensor in _outside(_skeleton(path)):
            info = ExternalDataInfo(tensor)
            if info.location not in self._files:
                self._files[info.location] = memoryview(path.with_name(info.location).read_bytes())
            raw = self._files[info.location][info.offset : info.offset + info.length]
            self._places[_digest(raw)] = (info.location, info.offset)

    def whole(self, raw: bytes) -> tuple[str, int] | None:
        """Where a tensor of these bytes lies."""
        return self._places.get(_digest(raw))

    def part(self, raw: bytes) -> tuple[str, int] | None:
        """Where these bytes, a cache line of them at least, begin on a cache line of a file: inside a larger tensor."""
        first = np.frombuffer(raw[:_CACHE_LINE], np.uint64)
        for name, content in self._files.items():
            lines = np.frombuffer(content[: len(content) // _CACHE_LINE * _CACHE_LINE], np.uint64)
            for line in np.flatnonzero((lines.reshape(-1, len(first)) == first).all(axis=1)):
                offset = int(line) * _CACHE_LINE
                if content[offset : offset + len(raw)] == raw:
                    return name, offset
        return None


def _digest(raw: bytes | memoryview) -> bytes:
    return hashlib.sha256(raw).digest()


def _weights(model: ModelProto) -> dict[bytes, TensorProto]:
    """The tensors that go outside, by digest, in the order of their names."""
    large = ((tensor, _content(tensor)) for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name))
    return {_digest(raw): tensor for tensor, raw in large if len(raw) >= _INLINE_BYTES}


def _write_data(tensors: Sequence[TensorProto], path: Path) -> Places:
    """Write a data file of these tensors; none if there are none."""
    from onnx import TensorProto

    places: Places = {}
    if not tensors:
        return places
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for tensor in tensors:
            raw = _content(tensor)
            # Eight-bit matrices are used where they are mapped, and so begin a page however small they are.
            paged = len(raw) >= _PAGE_ALIGNED_BYTES or tensor.data_type == TensorProto.INT8
            file.write(bytes(-file.tell() % (_PAGE if paged else _CACHE_LINE)))
            places[_digest(raw)] = (path.name, file.tell())
            file.write(raw)
    return places


def _content(tensor: TensorProto) -> bytes:
    import onnx

    return tensor.raw_data if tensor.HasField("raw_data") else onnx.numpy_helper.to_array(tensor).tobytes()


def _move_out(tensor: TensorProto, raw: bytes, place: tuple[str, int]) -> None:
    """Have a tensor of these bytes point at them in a data file."""
    from onnx.external_data_helper import set_external_data

    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    tensor.raw_data = raw  # set_external_data wants them there, and leaves them
    set_external_data(tensor, place[0], offset=place[1], length=len(raw))
    tensor.ClearField("raw_data")


def write(model: ModelProto, path: Path) -> None:
    """Write a graph file, its weights as they are: inside, or pointing at other files."""
    anonymise(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _skeleton(path: Path) -> ModelProto:
    """A graph file without its external data."""
    import onnx

    return onnx.load(str(path), load_external_data=False)


def _outside(model: ModelProto) -> list[TensorProto]:
    """The tensors of a graph whose bytes lie in other files."""
    from onnx import TensorProto

    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


def opset(path: Path) -> int:
    """The version of the ONNX standard's operators that a graph file asks for."""
    return next(item.version for item in _skeleton(path).opset_import if not item.domain)


def load(path: Path) -> ModelProto:
    """Read a graph and its external data."""
    import onnx

    return onnx.load(str(path))


def describe(
    path: Path, bundle: Path, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], *, optimized: bool = False
) -> GraphFile:
    """The manifest's entry for a graph file of a bundle, with the data files that it reads.

    `inputs` are those of the graph that it was made from; what the file still has of them is described, in the types
    that it declares.
    """
    from onnx import helper
    from onnx.external_data_helper import ExternalDataInfo

    model = _skeleton(path)
    types = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in model.graph.input
    }
    data = sorted({ExternalDataInfo(tensor).location for tensor in _outside(model)})
    return GraphFile(
        file=path.relative_to(bundle).as_posix(),
        data=tuple(path.with_name(name).relative_to(bundle).as_posix() for name in data),
        inputs=tuple(tensor._replace(dtype=types[tensor.name]) for tensor in inputs if tensor.name in types),
        outputs=outputs,
        fused=fused(model),
        optimized=optimized,
    )


def fused(model: ModelProto) -> dict[str, int]:
    """How many of each of the fused operators of ONNX Runtime and of untorch-kernels a graph has.

    The standard's own `Attention` counts where it takes arrays that are not split into heads.
    """
    counts = Counter(node.op_type for node in model.graph.node if _is_fused(node))
    return {name: counts[name] for name in _FUSED if counts[name]}


def _is_fused(node: NodeProto) -> bool:
    unsplit = any(attribute.name == "q_num_heads" and attribute.i for attribute in node.attribute)
    return node.domain in ("com.microsoft", DOMAIN) or unsplit


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


def anonymise(model: ModelProto) -> None:
    """Take out of a model, in place, what names the machine that made it and what no reader of it needs.

    The exporters write doc strings and metadata with stack traces and paths of their machine, for each node, weight and
    value. The types and shapes of values inside the graph go too: every runtime infers them, and they are a third of
    the graph file of a small decoder.
    """
    model.doc_string = ""
    del model.metadata_props[:]
    _anonymise(model.graph)
    for function in model.functions:
        _clean(function, *function.node, *function.value_info)


def _anonymise(graph: GraphProto) -> None:
    _clean(graph, *graph.node, *graph.initializer, *graph.input, *graph.output)
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("g"):
                _anonymise(attribute.g)


def _clean(*items: Any) -> None:
    for item in items:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):  # onnx before 1.16 has it for models alone
            del item.metadata_props[:]
