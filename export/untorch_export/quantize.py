"""int8: eight-bit weights and activations for encoder graphs on ONNX Runtime's CPU provider.

Every product of an activation with a constant matrix is replaced. A weight matrix W (K x N) has one symmetric scale a
column. An activation x (... x K) has one scale a row, from the row's own largest value, so that an answer cannot depend
on the other texts in its batch. Signed rows use zero point 128; the output of a GELU is first shifted by -min(GELU),
which gives its one-sided range all 256 levels. The product runs in MatMulIntegerToFloat with unsigned activations and
signed weights: the only combination with a fast x86 kernel.

A few input channels of each product are far larger than the rest. They would set the row's scale and leave few levels
for everything else, so they take a thin fp32 product beside the integer one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from untorch.session import Session
from untorch_export import graph as files
from untorch_export.prune import SELECTED

Floats = NDArray[np.float32]
Channels = Mapping[str, NDArray[np.int64]]

CONTRIB = "com.microsoft"
LEAST_GELU = 0.17  # GELU(x) > -0.17 for every x, in its exact and in its tanh form
# Channels of each activation that stay in fp32.
OUTLIERS = 4


def quantize_int8(model: onnx.ModelProto, outliers: Channels) -> onnx.ModelProto:
    """The eight-bit form of a fused fp32 graph, which is used up. `outliers` come from `find_outliers`."""
    graph = _Graph(model)
    for x, products in _products(graph).items():
        # A selected row of an activation has the activation's outliers.
        _integer_products(graph, products, outliers.get(x.removesuffix(SELECTED)))
    for node in model.graph.node:
        if node.op_type == "Gather" and _is_table(graph, node):
            _table(graph, node)
    graph.finish()
    return model


def calibration_batches(
    names: Sequence[str], vocabulary_size: int, special_ids: tuple[int, int], limit: int | None
) -> list[dict[str, NDArray[np.int64]]]:
    """64 rows of random word pieces between the two special tokens, at most `limit` tokens, as inputs of those names.

    Outlying channels belong to a model, hardly to its texts, and a model without a tokenizer has them too.
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


def find_outliers(model: onnx.ModelProto, batches: Sequence[dict[str, NDArray[np.int64]]]) -> Channels:
    """The OUTLIERS channels of largest magnitude, ascending, of each activation that enters a product.

    `model` is a fused fp32 graph, `batches` unpadded inputs of it; see `calibration_batches`. The heads' context is
    left out: its channels are alike.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = _Graph(probe)
    names = [x for x in _products(graph) if graph.producer(x) in ("LayerNormalization", "Gelu", "FastGelu")]
    if not names:  # MobileBERT has neither norms nor GELUs, and a session asked for nothing gives everything
        return {}
    # Reduced inside the graph: what comes back is one number a channel.
    axes = graph.add_constant("outliers.axes", np.array([0, 1], np.int64))
    for name in names:
        magnitude, largest = f"{name}.magnitude", f"{name}.channels"
        probe.graph.node.append(_node("Abs", [name], magnitude))
        probe.graph.node.append(helper.make_node("ReduceMax", [magnitude, axes], [largest], keepdims=0))
        probe.graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, ["channels"]))
    graph.finish()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.onnx")
        files.save(probe, path)
        session = Session(path, device="cpu", optimized=True)
        found = [session.run(batch, [f"{name}.channels" for name in names]) for batch in batches]
    largest_of = [np.max(values, axis=0) for values in zip(*found, strict=True)]
    return {
        name: np.sort(np.argsort(-largest, kind="stable")[:OUTLIERS]).astype(np.int64)
        for name, largest in zip(names, largest_of, strict=True)
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

    def producer(self, name: str) -> str:
        return self._producers[name].op_type if name in self._producers else ""

    def is_gelu(self, name: str) -> bool:
        return self.producer(name) in ("Gelu", "FastGelu")

    def add_constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def take_bias(self, product: onnx.NodeProto) -> tuple[Floats | np.float32, str]:
        """Remove the constant addition after a product: its vector and the sum's name, or zero and the product's."""
        consumers = [node for node in self.model.graph.node if product.output[0] in node.input]
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
        if node.op_type == "MatMul" and graph.is_constant(node.input[1]) and graph.constant(node.input[1]).ndim == 2:
            groups.setdefault(node.input[0], []).append(node)
    return groups


def _integer_products(graph: _Graph, products: list[onnx.NodeProto], outliers: NDArray[np.int64] | None) -> None:
    """Quantise one activation by rows, then multiply it with each of the matrices that it meets."""
    x = products[0].input[0]
    nodes, zero_point, step = _quantised_rows(graph, x, outliers, graph.constant(products[0].input[1]).shape[0])
    for product in products:
        y, name = product.output[0], product.input[1]
        weight = graph.constant(name)
        integers, scales = quantize_columns(weight, outliers)
        # Named after the product where rows are left out: layers may share a matrix but not its outliers.
        key = name if outliers is None else y
        w8 = graph.add_constant(f"{key}.int8", integers)
        ws = graph.add_constant(f"{key}.scale", scales)
        nodes.append(
            helper.make_node(
                "MatMulIntegerToFloat", [f"{x}.int8", w8, step, ws, zero_point], [f"{y}.unscaled"], domain=CONTRIB
            )
        )
        bias, result = graph.take_bias(product)
        if graph.is_gelu(x):
            bias = bias - LEAST_GELU * (integers.astype(np.float64) * scales).sum(axis=0)
        row = (np.zeros(weight.shape[1]) + bias).astype(np.float32)
        nodes.append(_node("Mul", [f"{y}.unscaled", f"{x}.largest"], f"{y}.small"))
        if outliers is not None:
            beside = graph.add_constant(f"{y}.beside", np.vstack([weight[outliers], row]))
            nodes.append(_node("MatMul", [f"{x}.large", beside], f"{y}.large"))
            nodes.append(_node("Add", [f"{y}.small", f"{y}.large"], result))
        elif row.any():
            nodes.append(_node("Add", [f"{y}.small", graph.add_constant(f"{y}.bias", row)], result))
        else:
            nodes[-1].output[0] = result
        graph.replace(product, nodes)
        nodes = []


def _quantised_rows(
    graph: _Graph, x: str, outliers: NDArray[np.int64] | None, width: int
) -> tuple[list[onnx.NodeProto], str, str]:
    """Nodes that write `<x>.int8`, the scale `<x>.largest` of its rows, and with outliers `<x>.large`.

    `<x>.large` holds the outlier channels and a last one of ones, which carries the bias. Also returns the names of
    the zero point and of the step between two levels, as a fraction of the row's scale.
    """
    axis = graph.add_constant("int8.last_axis", np.array([-1], np.int64))
    nodes, small = [], x
    if outliers is not None:
        rest = np.where(np.isin(np.arange(width), outliers), 0, 1).astype(np.float32)
        small = f"{x}.small"
        nodes.append(_node("Mul", [x, graph.add_constant(f"{x}.rest", rest)], small))
    if graph.is_gelu(x):
        zero_point = graph.add_constant("int8.zero_gelu", np.uint8(0))
        step = graph.add_constant("int8.step_gelu", np.float32(1 / 255))
        shift = graph.add_constant("int8.least_gelu", np.float32(LEAST_GELU))
        nodes.append(_node("Add", [small, shift], f"{x}.shifted"))
        small = magnitude = f"{x}.shifted"
    else:
        zero_point = graph.add_constant("int8.zero", np.uint8(128))
        step = graph.add_constant("int8.step", np.float32(1 / 127))
        magnitude = f"{x}.magnitude"
        nodes.append(_node("Abs", [small], magnitude))
    # A row of zeros becomes NaN, then some integer, then zero again when it is multiplied by its own scale.
    nodes.append(helper.make_node("ReduceMax", [magnitude, axis], [f"{x}.largest"], keepdims=1))
    nodes += [
        _node("Div", [small, f"{x}.largest"], f"{x}.normalised"),
        _node("QuantizeLinear", [f"{x}.normalised", step, zero_point], f"{x}.int8"),
    ]
    if outliers is not None:
        zero = graph.add_constant("int8.none", np.float32(0))
        one = graph.add_constant("int8.one", np.float32(1))
        nodes += [
            helper.make_node("Gather", [x, graph.add_constant(f"{x}.outliers", outliers)], [f"{x}.picked"], axis=-1),
            _node("Mul", [f"{x}.largest", zero], f"{x}.zeros"),
            _node("Add", [f"{x}.zeros", one], f"{x}.ones"),
            helper.make_node("Concat", [f"{x}.picked", f"{x}.ones"], [f"{x}.large"], axis=-1),
        ]
    return nodes, zero_point, step


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
        _node("Gather", [graph.add_constant(f"{name}.int8", integers.T), ids], f"{y}.int8"),
        _node("Gather", [graph.add_constant(f"{name}.scale", scales[:, None]), ids], f"{y}.scale"),
        helper.make_node("Cast", [f"{y}.int8"], [f"{y}.integers"], to=TensorProto.FLOAT),
        _node("Mul", [f"{y}.integers", f"{y}.scale"], y),
    ])  # fmt: skip


def _node(kind: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output])
