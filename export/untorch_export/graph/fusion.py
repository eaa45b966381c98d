"""Fusion: many small operators become ONNX Runtime's own large ones, such as one `Attention` a layer."""

from __future__ import annotations

from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from untorch.bundle.config import ModelConfig
from untorch.ort.devices import Device
from untorch_export.graph import files, softmax
from untorch_export.graph.rewriting import CONTRIB, Graph, attribute, node
from untorch_export.graph.shapes import infer
from untorch_export.graph.standard import fuse_standard, is_standard, obstacle

# What the standard's LayerNormalization adds to a variance where it does not say.
_EPSILON = 1e-5


def fuse(path: Path, config: dict[str, Any], *, device: str = "cpu") -> onnx.ModelProto:
    """The fp32 graph of `path` with one node for each layer of attention.

    For the CPU nothing else is fused that it runs faster apart: ONNX Runtime's SkipLayerNormalization takes several
    times as long there as Add followed by LayerNormalization. A GPU pays for every launch instead. The mask stays
    two-dimensional, so that padding on either side is right. `config` is the model's full configuration; heads and
    hidden size come from it where it has them.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    on_gpu = Device(device).is_gpu
    options = FusionOptions("bert")
    options.use_multi_head_attention = True
    options.use_raw_attention_mask(True)
    options.enable_skip_layer_norm = on_gpu
    options.enable_bias_skip_layer_norm = on_gpu
    options.enable_embed_layer_norm = False
    options.enable_bias_gelu = on_gpu
    # Its rotary operator wants positions for every row, and tracing gives those of one.
    options.enable_rotary_embeddings = False
    known = ModelConfig(config)
    heads = int(known.get("num_attention_heads") or 0)
    graph = Graph(files.load(path))
    # Before ONNX Runtime's own operators come in, whose results' shapes nobody infers.
    shapes = infer(graph) if graph.of("Softmax") else {}
    fuse_standard(graph, grouped=not on_gpu)
    _take_known_forms(graph, on_gpu=on_gpu)
    _join_transposes(graph)
    prepared = graph.finish()
    prepared.producer_name = "pytorch"  # the optimizer warns of any other
    with redirect_stdout(StringIO()):  # it prints where it cannot infer a shape, and goes on
        model = optimize_model(
            prepared,
            model_type="bert",
            num_heads=heads,
            hidden_size=int(known.get("hidden_size") or 0) if heads else 0,
            opt_level=0,
            optimization_options=options,
        ).model
    graph = Graph(model)
    softmax.fuse_softmax(graph, heads, shapes)
    _unflatten(graph)
    return graph.finish()


def _take_known_forms(graph: Graph, *, on_gpu: bool) -> None:
    """Give operators that the standard has since opset 17 the forms that ONNX Runtime's optimizer knows."""
    for gelu in graph.of("Gelu"):
        if not gelu.domain:
            kind = "FastGelu" if attribute(gelu, "approximate", b"none") == b"tanh" else "Gelu"
            graph.replace(gelu, [node(kind, gelu.input, gelu.output[0], domain=CONTRIB)])
    if not on_gpu:
        return
    for norm in graph.of("LayerNormalization"):
        # Where something is added before a norm, it fails if there is no bias, and takes 1e-12 for the standard's 1e-5.
        if attribute(norm, "epsilon", None) is None:
            norm.attribute.append(helper.make_attribute("epsilon", _EPSILON))
        scale = norm.input[1]
        if len(norm.input) < 3 and graph.is_constant(scale):
            zeros = graph.add_constant(f"{scale}.no_bias", np.zeros_like(graph.constant(scale)))
            graph.set_inputs(norm, [norm.input[0], scale, zeros])


def _join_transposes(graph: Graph) -> None:
    """Make one Transpose of two in a row, or none.

    ONNX Runtime's optimizer takes two with equal orders for none, which they need not be, and removes the first one
    from under its other readers.
    """
    for second in graph.of("Transpose"):
        first = graph.upstream(second.input[0], "Transpose")
        orders = [attribute(item, "perm", None) for item in (second, *first)]
        if not first or None in orders:
            continue
        joined = [orders[1][axis] for axis in orders[0]]
        source, result = first[0].input[0], second.output[0]
        if joined != sorted(joined):
            graph.replace(second, [node("Transpose", [source], result, perm=joined)])
        elif not graph.gives(result):
            graph.redirect(result, source)
    graph.drop_unused()


def _unflatten(graph: Graph) -> None:
    """Make products of whole rows of what GPT-2's Conv1D traces to: rows made flat, `Gemm`, and back.

    What is quantised is `MatMul` with a constant matrix.
    """
    for gemm in graph.of("Gemm"):
        flat = graph.upstream(gemm.input[0], "Reshape")
        back = graph.downstream(gemm.output[0], "Reshape")
        if not flat or not back or not _plain(gemm) or not all(map(graph.is_constant, gemm.input[1:])):
            continue
        rows = _rows(graph, flat[0])
        if rows is None:
            continue
        result, bias = back[0].output[0], gemm.input[2:]  # tracing leaves out a bias of zeros
        product = f"{gemm.output[0]}.product" if bias else result
        graph.remove(*back)
        made = [helper.make_node("MatMul", [rows, gemm.input[1]], [product], f"{gemm.name}.product")]
        if bias:
            made.append(helper.make_node("Add", [product, *bias], [result], f"{gemm.name}.sum"))
        graph.replace(gemm, made)
    graph.drop_unused()


def _rows(graph: Graph, flat: onnx.NodeProto) -> str | None:
    """The value (batch, sequence, width) that a Reshape makes flat; None for heads that nothing has joined before.

    A fused layer's result may be split into heads first, only for this Reshape to join them.
    """
    split = graph.upstream(flat.input[0], "Reshape")
    if split and graph.is_constant(split[0].input[1]) and graph.constant(split[0].input[1]).tolist()[:2] == [0, 0]:
        return split[0].input[0]
    return None if graph.upstream(flat.input[0], "Transpose") else flat.input[0]


def _plain(gemm: onnx.NodeProto) -> bool:
    """Whether a Gemm is a product, with or without a sum, and nothing is scaled or turned round."""
    turned = any(attribute(gemm, name, 0) for name in ("transA", "transB"))
    return not turned and all(attribute(gemm, name, 1) == 1 for name in ("alpha", "beta"))


def layers(path: Path) -> int:
    """How many attention layers the graph of `path` has, cross-attention counted, and so how many should be fused.

    Each is an `Attention` of the standard's, or has one softmax, over its scores.
    """
    graph = Graph(onnx.load(str(path), load_external_data=False))
    return sum(map(is_standard, graph.nodes)) + sum(softmax.attends(graph, item) for item in graph.of("Softmax"))


def fused_attention(counts: dict[str, int]) -> int:
    """How many attention layers of a graph are one operator each, from its counts of fused operators."""
    return sum(counts.get(name, 0) for name in files.ATTENTION)


def unfused(model: onnx.ModelProto) -> dict[str, int]:
    """How many attention layers a fused graph has that are not fused, by the reason, in words."""
    graph = Graph(model)
    left = [item for item in graph.of("Softmax") if softmax.attends(graph, item)]
    standard = [item for item in graph.nodes if is_standard(item)]
    if not left and not standard:
        return {}
    shapes = infer(graph)
    reasons = [obstacle(item, shapes) for item in standard] + [softmax.obstacle(graph, item, shapes) for item in left]
    return dict(Counter(reason for reason in reasons if reason is not None))
