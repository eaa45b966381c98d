"""int8: eight-bit weights and activations for encoder graphs on ONNX Runtime's CPU provider.

Every product of an activation with a constant matrix is replaced. A weight matrix W (K x N) has one symmetric scale a
column. What comes out of a layer norm has one scale a row, from the row's own largest value: these are the activations
whose error shows most. Every other activation has one range, fixed here from texts that the exporter runs through the
fp32 graph, so that one operator does the quantising; values beyond the range take its end. Either way an answer cannot
depend on the other texts in its batch. The product runs in MatMulIntegerToFloat with unsigned activations and signed
weights: the only combination with a fast x86 kernel.

A few input channels of each product are far larger than the rest. They would leave few levels for everything else, so
they take a thin fp32 product beside the integer one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from untorch.session import Session
from untorch_export import graph as files
from untorch_export.prune import SELECTED

Floats = NDArray[np.float32]

CONTRIB = "com.microsoft"
# Channels of each activation that stay in fp32.
OUTLIERS = 8
# An activation that is zero on every text still has a step.
_LEAST_STEP = 1e-12


@dataclass(frozen=True)
class Range:
    """The least, the largest and the mean value of each channel of an activation: three arrays of K.

    `normalised` says that it comes out of a layer norm.
    """

    low: Floats
    high: Floats
    mean: Floats
    normalised: bool

    @property
    def outliers(self) -> NDArray[np.int64]:
        """The OUTLIERS channels of largest magnitude, ascending."""
        magnitude = np.maximum(-self.low, self.high)
        return np.sort(np.argsort(-magnitude, kind="stable")[:OUTLIERS]).astype(np.int64)

    def levels(self) -> tuple[np.float32, np.uint8]:
        """The step between two of 256 levels and the level of zero, for the channels that are no outliers."""
        rest = np.ones(len(self.low), bool)
        rest[self.outliers] = False
        low = min(0.0, float(self.low[rest].min(initial=0)))
        high = max(0.0, float(self.high[rest].max(initial=0)))
        step = max((high - low) / 255, _LEAST_STEP)
        return np.float32(step), np.uint8(round(-low / step))


Ranges = Mapping[str, Range]


def quantize_int8(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """The eight-bit form of a fused fp32 graph, which is used up. `ranges` come from `find_ranges`."""
    graph = _Graph(model)
    biases = _take_attention_biases(graph)
    for x, products in _products(graph).items():
        # A selected row of an activation has the activation's range.
        _integer_products(graph, products, ranges[x.removesuffix(SELECTED)], biases)
    for node in model.graph.node:
        if node.op_type == "Gather" and _is_table(graph, node):
            _table(graph, node)
    graph.finish()
    return model


def random_batches(
    names: Sequence[str], vocabulary_size: int, special_ids: tuple[int, int], limit: int | None
) -> list[dict[str, NDArray[np.int64]]]:
    """64 rows of random word pieces between the two special tokens, at most `limit` tokens, as inputs of those names.

    They reach corners of a vocabulary that no handful of texts does, and a model without a tokenizer has them too.
    """
    random = np.random.default_rng(0)
    batches = []
    most = min(62, (limit or 64) - 2)
    for length in random.integers(min(4, most), most + 1, size=64):
        # The first ids of a vocabulary are special, unused or single characters.
        middle = random.integers(vocabulary_size // 30, vocabulary_size, size=length)
        ids = np.concatenate(([special_ids[0]], middle, [special_ids[1]]))[None].astype(np.int64)
        arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        batches.append({name: arrays.get(name, np.zeros_like(ids)) for name in names})
    return batches


def find_ranges(model: onnx.ModelProto, batches: Sequence[dict[str, NDArray[np.int64]]]) -> Ranges:
    """The range of each activation that enters a product, over `batches`: unpadded inputs of the fused fp32 graph."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = _Graph(probe)
    names = list(_products(graph))
    normalised = {output for node in model.graph.node if node.op_type == "LayerNormalization" for output in node.output}
    if not names:  # a session asked for nothing gives everything
        return {}
    # Reduced inside the graph: what comes back is three numbers a channel.
    axis = graph.add_constant("ranges.axis", np.array([0], np.int64))
    outputs = []
    for name, products in _products(graph).items():
        width = graph.constant(products[0].input[1]).shape[0]
        shape = graph.add_constant(f"ranges.{width}", np.array([-1, width], np.int64))
        probe.graph.node.append(_node("Reshape", [name, shape], f"{name}.rows"))
        for kind in ("ReduceMin", "ReduceMax", "ReduceMean"):
            outputs.append(f"{name}.{kind}")
            probe.graph.node.append(helper.make_node(kind, [f"{name}.rows", axis], outputs[-1:], keepdims=0))
            probe.graph.output.append(helper.make_tensor_value_info(outputs[-1], TensorProto.FLOAT, ["channels"]))
    graph.finish()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.onnx")
        files.save(probe, path)
        session = Session(path, device="cpu", optimized=True)
        found = [session.run(batch, outputs) for batch in batches]
    columns = list(zip(*found, strict=True))
    return {
        name: Range(np.min(low, axis=0), np.max(high, axis=0), np.mean(mean, axis=0), name in normalised)
        for name, low, high, mean in zip(names, columns[::3], columns[1::3], columns[2::3], strict=True)
    }


class _Graph:
    """An ONNX model being rewritten: nodes replaced in place, new constants added, dead ones dropped."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._constants = {t.name: t for t in model.graph.initializer}
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._replacements: dict[str, list[onnx.NodeProto]] = {}

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def constant(self, name: str) -> Floats:
        return numpy_helper.to_array(self._constants[name])

    def producer(self, name: str) -> onnx.NodeProto | None:
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if name in node.input]

    def add_constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def take_bias(self, product: onnx.NodeProto) -> tuple[Floats | np.float32, str]:
        """Remove the constant addition after a product: its vector and the sum's name, or zero and the product's."""
        consumers = self.readers(product.output[0])
        if len(consumers) == 1 and consumers[0].op_type == "Add":
            for name in consumers[0].input:
                if self.is_constant(name) and self.constant(name).ndim == 1:
                    self.replace(consumers[0], [])
                    return self.constant(name), consumers[0].output[0]
        return np.float32(0), product.output[0]

    def replace(self, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> None:
        self._replacements[node.output[0]] = nodes

    def finish(self) -> None:
        nodes = [new for old in self.model.graph.node for new in self._replacements.get(old.output[0], [old])]
        used = {name for node in nodes for name in files.reads(node)}
        del self.model.graph.node[:], self.model.graph.initializer[:], self.model.graph.value_info[:]
        self.model.graph.node.extend(nodes)
        self.model.graph.initializer.extend(t for name, t in self._constants.items() if name in used)
        files.check(self.model)


def _products(graph: _Graph) -> dict[str, list[onnx.NodeProto]]:
    """Products with a constant matrix, grouped by the activation they share."""
    groups: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.model.graph.node:
        if _is_product(graph, node):
            groups.setdefault(node.input[0], []).append(node)
    return groups


def _is_product(graph: _Graph, node: onnx.NodeProto) -> bool:
    return node.op_type == "MatMul" and graph.is_constant(node.input[1]) and graph.constant(node.input[1]).ndim == 2


def _take_attention_biases(graph: _Graph) -> dict[str, Floats]:
    """Take the bias of queries, keys and values out of attention operators: by name of the product it belongs to."""
    biases: dict[str, Floats] = {}
    for node in graph.model.graph.node:
        if node.op_type != "MultiHeadAttention" or len(node.input) < 4 or not graph.is_constant(node.input[3]):
            continue
        products = [graph.producer(name) for name in node.input[:3]]
        if any(product is None or not _is_product(graph, product) for product in products):
            continue
        if any(len(graph.readers(name)) != 1 for name in node.input[:3]):
            continue
        widths = [graph.constant(product.input[1]).shape[1] for product in products if product is not None]
        parts = np.split(graph.constant(node.input[3]), np.cumsum(widths)[:-1])
        biases.update(zip(node.input[:3], parts, strict=True))
        node.input[3] = ""
    return biases


def _integer_products(
    graph: _Graph, products: list[onnx.NodeProto], found: Range, biases: Mapping[str, Floats]
) -> None:
    """Quantise one activation, then multiply it with the matrices that it meets, side by side as one."""
    x = products[0].input[0]
    weights = [graph.constant(product.input[1]) for product in products]
    results, rows = [], []
    for product, weight in zip(products, weights, strict=True):
        bias, result = graph.take_bias(product)
        bias = bias + biases.get(product.output[0], np.float32(0))
        rows.append((np.zeros(weight.shape[1]) + bias).astype(np.float32))
        results.append(result)
    weight, row = np.concatenate(weights, axis=1), np.concatenate(rows)
    y = results[0] if len(products) == 1 else f"{x}.products"
    make = _product_by_rows if found.normalised else _product_in_range
    nodes = list(make(graph, x, y, weight, row, found))
    if len(products) > 1:
        widths = graph.add_constant(f"{y}.widths", np.array([part.shape[1] for part in weights], np.int64))
        nodes.append(helper.make_node("Split", [y, widths], results, axis=-1))
    for product in products:
        graph.replace(product, nodes)
        nodes = []


def _product_in_range(
    graph: _Graph, x: str, y: str, weight: Floats, bias: Floats, found: Range
) -> Iterator[onnx.NodeProto]:
    """Nodes for y = x @ weight + bias: the outlying channels of `x` in fp32, the others on the levels of its range."""
    level, zero_level = found.levels()
    step, zero = graph.add_constant(f"{x}.step", level), graph.add_constant(f"{x}.zero", zero_level)
    # An outlier saturates here, and meets a row of zeros in the weights.
    yield _node("QuantizeLinear", [x, step, zero], f"{x}.int8")
    w8, ws, bias = _rounded(graph, y, weight, bias, found)
    inputs = [f"{x}.int8", w8, step, ws, zero, "", graph.add_constant(f"{y}.bias", bias)]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [f"{y}.integer"], domain=CONTRIB)
    yield _picked(graph, x, f"{x}.picked", found)
    beside = graph.add_constant(f"{y}.rows", weight[found.outliers])
    yield _node("MatMul", [f"{x}.picked", beside], f"{y}.large")
    yield _node("Add", [f"{y}.integer", f"{y}.large"], y)


def _product_by_rows(
    graph: _Graph, x: str, y: str, weight: Floats, bias: Floats, found: Range
) -> Iterator[onnx.NodeProto]:
    """The same with a scale for each row of `x`, which the integer product is multiplied with afterwards."""
    step = graph.add_constant("int8.step", np.float32(1 / 127))
    zero = graph.add_constant("int8.zero", np.uint8(128))
    axis = graph.add_constant("int8.last_axis", np.array([-1], np.int64))
    rest = np.ones(len(weight), np.float32)
    rest[found.outliers] = 0
    yield _node("Mul", [x, graph.add_constant(f"{x}.rest", rest)], f"{x}.small")
    yield _node("Abs", [f"{x}.small"], f"{x}.magnitude")
    # A row of zeros becomes NaN, then some integer, then zero again when it is multiplied by its own scale.
    yield helper.make_node("ReduceMax", [f"{x}.magnitude", axis], [f"{x}.largest"], keepdims=1)
    yield _node("Div", [x, f"{x}.largest"], f"{x}.fraction")
    yield _node("QuantizeLinear", [f"{x}.fraction", step, zero], f"{x}.int8")
    w8, ws, bias = _rounded(graph, y, weight, bias, found)
    inputs = [f"{x}.int8", w8, step, ws, zero]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [f"{y}.unscaled"], domain=CONTRIB)
    yield _node("Mul", [f"{y}.unscaled", f"{x}.largest"], f"{y}.integer")
    # A last channel of ones carries the bias.
    yield _picked(graph, x, f"{x}.picked", found)
    yield _node("Mul", [f"{x}.largest", graph.add_constant("int8.none", np.float32(0))], f"{x}.zeros")
    yield _node("Add", [f"{x}.zeros", graph.add_constant("int8.one", np.float32(1))], f"{x}.ones")
    yield helper.make_node("Concat", [f"{x}.picked", f"{x}.ones"], [f"{x}.picked_and_one"], axis=-1)
    beside = graph.add_constant(f"{y}.rows", np.vstack([weight[found.outliers], bias]))
    yield _node("MatMul", [f"{x}.picked_and_one", beside], f"{y}.large")
    yield _node("Add", [f"{y}.integer", f"{y}.large"], y)


def _picked(graph: _Graph, x: str, output: str, found: Range) -> onnx.NodeProto:
    places = graph.add_constant(f"{x}.outliers", found.outliers)
    return helper.make_node("Gather", [x, places], [output], axis=-1)


def _rounded(graph: _Graph, y: str, weight: Floats, bias: Floats, found: Range) -> tuple[str, str, Floats]:
    """Names of the integer weights and of their scales, and the bias that makes up for the rounding.

    They are named after the result: layers may share a matrix but not its outliers.
    """
    integers, scales = quantize_columns(weight, found.outliers)
    # What rounding the weights moves on average, the bias moves back.
    kept = np.delete(np.arange(len(weight)), found.outliers)
    bias = bias + found.mean[kept] @ (weight[kept] - integers[kept] * scales)
    names = graph.add_constant(f"{y}.weight", integers), graph.add_constant(f"{y}.scale", scales)
    return (*names, bias.astype(np.float32))


def quantize_columns(weight: Floats, without: NDArray[np.int64] | None = None) -> tuple[NDArray[np.int8], Floats]:
    """Nearest integers in [-127, 127] and a scale for each column of a K x N matrix; rows in `without` are zero."""
    weight = weight.astype(np.float32)
    if without is not None:
        weight[without] = 0
    scales = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(127)
    return np.rint(weight / scales).astype(np.int8), scales


def _is_table(graph: _Graph, node: onnx.NodeProto) -> bool:
    name = node.input[0]
    if not graph.is_constant(name) or any(a.name == "axis" and a.i for a in node.attribute):
        return False
    table = graph.constant(name)
    return table.ndim == 2 and table.dtype == np.float32 and len(table) > 2  # not the token types


def _table(graph: _Graph, node: onnx.NodeProto) -> None:
    """An embedding table as int8 with one scale a row."""
    name, ids = node.input
    y = node.output[0]
    integers, scales = quantize_columns(graph.constant(name).T)
    graph.replace(node, [
        _node("Gather", [graph.add_constant(f"{name}.int8", integers.T), ids], f"{y}.entry"),
        _node("Gather", [graph.add_constant(f"{name}.scale", scales[:, None]), ids], f"{y}.entry_scale"),
        helper.make_node("Cast", [f"{y}.entry"], [f"{y}.integers"], to=TensorProto.FLOAT),
        _node("Mul", [f"{y}.integers", f"{y}.entry_scale"], y),
    ])  # fmt: skip


def _node(kind: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output])
