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

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from untorch_export.graph.rewriting import CONTRIB, Floats, Graph, node
from untorch_export.quantize.products import Product, find_products, replace_products
from untorch_export.quantize.ranges import Activations, Range
from untorch_export.quantize.rounding import quantize_product, quantize_tables


def quantize_int8(model: onnx.ModelProto, seen: Activations) -> onnx.ModelProto:
    """A new model: the eight-bit form of a fused fp32 graph, whose activations were `seen`."""
    graph = Graph(model)
    for x, products in find_products(graph).items():
        integer_products(graph, products, seen.range(x))
    quantize_tables(graph)
    return graph.finish()


def integer_products(graph: Graph, products: Sequence[Product], found: Range) -> None:
    """Quantise one activation, then multiply it with the matrices that it meets, side by side as one."""
    x = products[0].x
    weights = [graph.constant(product.weight) for product in products]
    weight, row = np.concatenate(weights, axis=1), np.concatenate([product.bias for product in products])
    y = products[0].y if len(products) == 1 else f"{x}.products"
    make = _product_by_rows if found.normalised else _product_in_range
    nodes = list(make(graph, x, y, weight, row, found))
    if len(products) > 1:
        widths = graph.add_constant(f"{y}.widths", np.array([part.shape[1] for part in weights], np.int64))
        results = [product.y for product in products]
        nodes.append(onnx.helper.make_node("Split", [y, widths], results, axis=-1))
    replace_products(graph, products, nodes)


def _product_in_range(
    graph: Graph, x: str, y: str, weight: Floats, bias: Floats, found: Range
) -> Iterator[onnx.NodeProto]:
    """Nodes for y = x @ weight + bias: the outlying channels of `x` in fp32, the others on the levels of its range."""
    level, zero_level = found.levels()
    step, zero = graph.add_constant(f"{x}.step", level), graph.add_constant(f"{x}.zero", zero_level)
    # An outlier saturates here, and meets a row of zeros in the weights.
    yield node("QuantizeLinear", [x, step, zero], f"{x}.int8")
    w8, ws, bias = _rounded(graph, y, weight, bias, found)
    inputs = [f"{x}.int8", w8, step, ws, zero, "", graph.add_constant(f"{y}.bias", bias)]
    yield node("MatMulIntegerToFloat", inputs, f"{y}.integer", domain=CONTRIB)
    yield _picked(graph, x, f"{x}.picked", found)
    beside = graph.add_constant(f"{y}.rows", weight[found.outliers])
    yield node("MatMul", [f"{x}.picked", beside], f"{y}.large")
    yield node("Add", [f"{y}.integer", f"{y}.large"], y)


def _product_by_rows(
    graph: Graph, x: str, y: str, weight: Floats, bias: Floats, found: Range
) -> Iterator[onnx.NodeProto]:
    """The same with a scale for each row of `x`, which the integer product is multiplied with afterwards."""
    step = graph.add_constant("int8.step", np.float32(1 / 127))
    zero = graph.add_constant("int8.zero", np.uint8(128))
    axis = graph.add_constant("int8.last_axis", np.array([-1], np.int64))
    rest = np.ones(len(weight), np.float32)
    rest[found.outliers] = 0
    yield node("Mul", [x, graph.add_constant(f"{x}.rest", rest)], f"{x}.small")
    yield node("Abs", [f"{x}.small"], f"{x}.magnitude")
    # A row of zeros becomes NaN, then some integer, then zero again when it is multiplied by its own scale.
    yield node("ReduceMax", [f"{x}.magnitude", axis], f"{x}.largest", keepdims=1)
    yield node("Div", [x, f"{x}.largest"], f"{x}.fraction")
    yield node("QuantizeLinear", [f"{x}.fraction", step, zero], f"{x}.int8")
    w8, ws, bias = _rounded(graph, y, weight, bias, found)
    inputs = [f"{x}.int8", w8, step, ws, zero]
    yield node("MatMulIntegerToFloat", inputs, f"{y}.unscaled", domain=CONTRIB)
    yield node("Mul", [f"{y}.unscaled", f"{x}.largest"], f"{y}.integer")
    # A last channel of ones carries the bias.
    yield _picked(graph, x, f"{x}.picked", found)
    yield node("Mul", [f"{x}.largest", graph.add_constant("int8.none", np.float32(0))], f"{x}.zeros")
    yield node("Add", [f"{x}.zeros", graph.add_constant("int8.one", np.float32(1))], f"{x}.ones")
    yield node("Concat", [f"{x}.picked", f"{x}.ones"], f"{x}.picked_and_one", axis=-1)
    beside = graph.add_constant(f"{y}.rows", np.vstack([weight[found.outliers], bias]))
    yield node("MatMul", [f"{x}.picked_and_one", beside], f"{y}.large")
    yield node("Add", [f"{y}.integer", f"{y}.large"], y)


def _picked(graph: Graph, x: str, output: str, found: Range) -> onnx.NodeProto:
    places = graph.add_constant(f"{x}.outliers", found.outliers)
    return node("Gather", [x, places], output, axis=-1)


def _rounded(graph: Graph, y: str, weight: Floats, bias: Floats, found: Range) -> tuple[str, str, Floats]:
    """Names of the integer weights and of their scales, and the bias. Named after the result: layers may share W."""
    integers, scales, bias = quantize_product(weight, bias, found)
    return graph.add_constant(f"{y}.weight", integers), graph.add_constant(f"{y}.scale", scales), bias
