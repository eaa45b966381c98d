"""Fusion: many small operators become ONNX Runtime's own large ones, such as one `Attention` a layer."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch.bundle.config import ModelConfig
from untorch_export.graph import files
from untorch_export.graph.attention import fuse_attention

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def fuse(path: Path, config: dict[str, Any], *, device: str = "cpu") -> ModelProto:
    """The fp32 graph of `path` with one `MultiHeadAttention` node a layer.

    For the CPU nothing else is fused that it runs faster apart: ONNX Runtime's SkipLayerNormalization takes several
    times as long there as Add followed by LayerNormalization. A card pays for every launch instead. The mask stays
    two-dimensional, so that padding on either side is right. `config` is the model's full configuration; heads and
    hidden size come from it where it has them.
    """
    from onnx.helper import make_opsetid
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
    fuse_attention(model, heads)
    _unflatten(model)
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(make_opsetid("com.microsoft", 1))
    return model


def _unflatten(model: ModelProto) -> None:
    """Make products of whole rows of what GPT-2's Conv1D traces to: rows made flat, `Gemm`, and back, in place.

    What is quantised is `MatMul` with a constant matrix.
    """
    from onnx import helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        flat, back = producers.get(node.input[0]) if node.input else None, readers.get(node.output[0], [])
        plain = all(attribute.f == 1 for attribute in node.attribute if attribute.name in ("alpha", "beta"))
        plain = plain and not any(attribute.i for attribute in node.attribute if attribute.name.startswith("trans"))
        if (
            node.op_type == "Gemm"
            and plain
            and flat is not None
            and flat.op_type == "Reshape"
            and [reader.op_type for reader in back] == ["Reshape"]
            and len(node.input) == 3
            and all(name in constants for name in node.input[1:])
        ):
            product, result = f"{node.output[0]}.product", back[0].output[0]
            nodes.append(helper.make_node("MatMul", [flat.input[0], node.input[1]], [product], f"{node.name}.product"))
            nodes.append(helper.make_node("Add", [product, node.input[2]], [result], f"{node.name}.sum"))
            back[0].output[0] = f"{result}.flat"
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    files.drop_unused(model.graph)


def layers(path: Path) -> int:
    """How many attention layers the graph of `path` has, cross-attention counted, and so how many should be fused.

    Each has one softmax, over its scores.
    """
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return sum(node.op_type == "Softmax" for node in nodes)


def fused_attention(counts: dict[str, int]) -> int:
    """How many attention layers of a graph are one operator each, from its counts of fused operators."""
    return sum(counts.get(name, 0) for name in files.ATTENTION)
