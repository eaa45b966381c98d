"""Fusion: many small operators become ONNX Runtime's own large ones, such as one `Attention` a layer."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from untorch.bundle.config import ModelConfig
from untorch_export.graph import files
from untorch_export.graph.rewriting import Graph, attribute
from untorch_export.graph.softmax import fuse_softmax


def fuse(path: Path, config: dict[str, Any], *, device: str = "cpu") -> onnx.ModelProto:
    """The fp32 graph of `path` with one `MultiHeadAttention` node a layer.

    For the CPU nothing else is fused that it runs faster apart: ONNX Runtime's SkipLayerNormalization takes several
    times as long there as Add followed by LayerNormalization. A GPU pays for every launch instead. The mask stays
    two-dimensional, so that padding on either side is right. `config` is the model's full configuration; heads and
    hidden size come from it where it has them.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.use_multi_head_attention = True
    options.use_raw_attention_mask(True)
    options.enable_skip_layer_norm = device == "cuda"
    options.enable_bias_skip_layer_norm = device == "cuda"
    options.enable_embed_layer_norm = False
    options.enable_bias_gelu = device == "cuda"
    # Its rotary operator wants positions for every row, and tracing gives those of one.
    options.enable_rotary_embeddings = False
    known = ModelConfig(config)
    heads = int(known.get("num_attention_heads") or 0)
    with redirect_stdout(StringIO()):  # it prints where it cannot infer a shape, and goes on
        model = optimize_model(
            str(path),
            model_type="bert",
            num_heads=heads,
            hidden_size=int(known.get("hidden_size") or 0),
            opt_level=0,
            optimization_options=options,
        ).model
    graph = Graph(model)
    fuse_softmax(graph, heads)
    _unflatten(graph)
    return graph.finish()


def _unflatten(graph: Graph) -> None:
    """Make products of whole rows of what GPT-2's Conv1D traces to: rows made flat, `Gemm`, and back.

    What is quantised is `MatMul` with a constant matrix.
    """
    for gemm in graph.of("Gemm"):
        flat = graph.upstream(gemm.input[0], "Reshape")
        back = graph.downstream(gemm.output[0], "Reshape")
        if not flat or not back or not _plain(gemm) or not all(map(graph.is_constant, gemm.input[1:])):
            continue
        product, result = f"{gemm.output[0]}.product", back[0].output[0]
        graph.remove(*back)
        graph.replace(gemm, [
            helper.make_node("MatMul", [flat[0].input[0], gemm.input[1]], [product], f"{gemm.name}.product"),
            helper.make_node("Add", [product, gemm.input[2]], [result], f"{gemm.name}.sum"),
        ])  # fmt: skip
    graph.drop_unused()


def _plain(gemm: onnx.NodeProto) -> bool:
    """Whether a Gemm is a product and a sum, with nothing scaled or turned round."""
    turned = any(attribute(gemm, name, 0) for name in ("transA", "transB"))
    return len(gemm.input) == 3 and not turned and all(attribute(gemm, name, 1) == 1 for name in ("alpha", "beta"))


def layers(path: Path) -> int:
    """How many attention layers the graph of `path` has, cross-attention counted, and so how many should be fused.

    Each has one softmax, over its scores.
    """
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return sum(node.op_type == "Softmax" for node in nodes)


def fused_attention(counts: dict[str, int]) -> int:
    """How many attention layers of a graph are one operator each, from its counts of fused operators."""
    return sum(counts.get(name, 0) for name in files.ATTENTION)
