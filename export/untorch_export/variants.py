"""The variants of a bundle before they are compared: the graphs of every precision, written and described."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from untorch.bundle.manifest import INT8_SHARED, KERNELS, PACKED, Tensor, Variant
from untorch.ort.cuda.packing import INDICES
from untorch.ort.session import Session
from untorch_export.answers import Arrays
from untorch_export.checkpoint.inputs import encode, place_marks, spare_id
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.errors import ExportWarning
from untorch_export.graph import files, fusion
from untorch_export.graph.fp16 import take_int32, to_fp16
from untorch_export.graph.head import head_only
from untorch_export.graph.masks import as_bias
from untorch_export.graph.packing import pack
from untorch_export.quantize.int8 import quantize_int8
from untorch_export.quantize.int8_kernels import quantize_kernels
from untorch_export.quantize.ranges import observe, random_batches
from untorch_export.trace import trace

if TYPE_CHECKING:
    from onnx import ModelProto

# (step, done, total): called as a step goes on; done == total when it is over.
Progress = Callable[[str, int, int], None]


def build(
    checkpoint: Checkpoint,
    bundle: Path,
    scratch: Path,
    precisions: Sequence[str],
    calibration: Sequence[str],
    progress: Progress,
) -> dict[str, Variant]:
    """Write the graph of every precision, not yet compared. fp32 is made in any case; the others come from it.

    Left out are fp16_packed, with a warning, where attention does not allow it, and int8_kernels where the graph has
    nothing that its operators could do.
    """
    if checkpoint.task.answer.generates:
        return {"fp32": _decoder(checkpoint, bundle, progress)}
    folder = bundle / "onnx" if "fp32" in precisions else scratch
    progress("convert", 0, 1)
    source = trace(checkpoint.model, checkpoint.task, folder)["model"]
    progress("convert", 1, 1)
    session = Session(source, device="cpu")
    inputs, outputs = session.inputs, session.outputs
    del session
    variants = {}
    if "fp32" in precisions:
        variants["fp32"] = Variant("fp32", {"model": files.describe(source, bundle, inputs, outputs)})
    if "fp16" in precisions:
        progress("halve", 0, 1)
        variants |= _halved(checkpoint, source, bundle, inputs, outputs, packed=f"fp16{PACKED}" in precisions)
        progress("halve", 1, 1)
    eight_bit = [name for name in precisions if name.startswith("int8")]
    if not checkpoint.task.answer.one_a_row and not eight_bit:
        return variants
    progress("fuse", 0, 1)
    fused = fusion.fuse(source, checkpoint.config)
    head = head_only(fused, "logits") if checkpoint.task.answer.one_a_row else None
    progress("fuse", 1, 1)
    if "fp32" in precisions:
        variants["fp32"] = _with_head(variants["fp32"], head, bundle)
    if eight_bit:
        progress("quantize", 0, 1)
        layers = fusion.layers(source)
        variants |= _quantized(checkpoint, fused, head, bundle, calibration, inputs, outputs, layers, eight_bit)
        progress("quantize", 1, 1)
    return variants


def _with_head(
    variant: Variant, head: ModelProto | None, bundle: Path, inputs: tuple[Tensor, ...] | None = None
) -> Variant:
    """The variant and, beside its whole graph, the one for the head alone. It shares the whole graph's weights.

    Its inputs are among `inputs` (default: the whole graph's).
    """
    if head is None:
        return variant
    whole = variant.graphs["model"]
    path = bundle / whole.file.replace("model", "head")
    files.save_beside(deepcopy(head), path, bundle / whole.file)
    names = {output.name for output in head.graph.output}
    outputs = tuple(output for output in whole.outputs if output.name in names)
    described = files.describe(path, bundle, inputs or whole.inputs, outputs, optimized=True)
    return replace(variant, graphs={**variant.graphs, "head": described})


def _decoder(checkpoint: Checkpoint, bundle: Path, progress: Progress) -> Variant:
    """The fp32 graphs of a model that generates."""
    progress("convert", 0, 1)
    paths = trace(checkpoint.model, checkpoint.task, bundle / "onnx")
    progress("convert", 1, 1)
    graphs = {}
    for role, path in paths.items():
        session = Session(path, device="cpu")
        graphs[role] = files.describe(path, bundle, session.inputs, session.outputs)
    return Variant("fp32", graphs)


def _quantized(
    checkpoint: Checkpoint,
    fused: ModelProto,
    head: ModelProto | None,
    bundle: Path,
    calibration: Sequence[str],
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    layers: int,
    precisions: Sequence[str],
) -> dict[str, Variant]:
    """The eight-bit variants of these `precisions`. What all of them read, the embeddings above all, they share."""
    seen = observe(fused, _calibration(checkpoint, calibration, inputs))
    makers = {name: quantize_kernels if name.endswith(KERNELS) else quantize_int8 for name in sorted(set(precisions))}
    models = {name: model for name, make in makers.items() if (model := make(fused, seen)) is not None}
    onnx = bundle / "onnx"
    shared = files.save_shared(list(models.values()), onnx / INT8_SHARED) if len(models) > 1 else None
    variants: dict[str, Variant] = {}
    for precision, model in models.items():
        path = onnx / f"model_{precision}.onnx"
        files.save(model, path, elsewhere=shared)
        described = files.describe(path, bundle, inputs, outputs, optimized=True)
        count = fusion.fused_attention(described.fused)
        if count < layers and not variants:
            warnings.warn(
                f"only {count} of {layers} attention layers fused ({checkpoint.config['model_type']}): int8 will be "
                "slower than it could be",
                ExportWarning,
                stacklevel=2,
            )
        extra = {"layers": layers, "fused_layers": count, "calibration_texts": len(calibration)}
        whole = Variant(precision, {"model": described}, extra=extra)
        variants[precision] = _with_head(whole, makers[precision](head, seen) if head else None, bundle)
    return variants


def _halved(
    checkpoint: Checkpoint,
    source: Path,
    bundle: Path,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    *,
    packed: bool,
) -> dict[str, Variant]:
    """The fp16 variant, fused as a card wants it, and with `packed` the one without padding in its layers beside it.

    The graphs that nobody but untorch reads take int32. fp16 is compared here on the CPU, whose sums are not a card's.
    """
    fused = fusion.fuse(source, checkpoint.config, device="cuda")
    head = head_only(fused, "logits") if checkpoint.task.answer.one_a_row else None
    half, half_head = to_fp16(fused), to_fp16(head) if head else None
    tight, tight_head = (pack(model) if packed and model else None for model in (half, half_head))
    path = bundle / "onnx" / "model_fp16.onnx"
    files.save(as_bias(half), path)
    described = files.describe(path, bundle, inputs, outputs, optimized=True)
    counts = {"layers": fusion.layers(source), "fused_layers": fusion.fused_attention(described.fused)}
    whole = Variant("fp16", {"model": described}, extra={**counts, "compared_on": "cpu"})
    variants = {"fp16": _with_head(whole, take_int32(as_bias(half_head)) if half_head else None, bundle)}
    if tight is not None:
        beside = path.with_name(f"model_fp16{PACKED}.onnx")
        files.save_beside(take_int32(tight), beside, path)
        taken = (*inputs, *INDICES)
        found = files.describe(beside, bundle, taken, outputs, optimized=True)
        whole = Variant(f"fp16{PACKED}", {"model": found}, extra=dict(counts))
        variants[whole.precision] = _with_head(whole, take_int32(tight_head) if tight_head else None, bundle, taken)
    elif packed:
        kind = checkpoint.config["model_type"]
        warnings.warn(f"{kind}'s attention does not allow padding to be removed", ExportWarning, stacklevel=3)
    return variants


def _calibration(checkpoint: Checkpoint, texts: Sequence[str], inputs: tuple[Tensor, ...]) -> list[Arrays]:
    """Rows on which the quantizer finds ranges; special tokens are 0 where no tokenizer names them."""
    named = (getattr(checkpoint.tokenizer, name, None) for name in ("cls_token_id", "sep_token_id", "eos_token_id"))
    first, separator, eos = (token or 0 for token in named)
    last = separator or eos or int(checkpoint.config.get("eos_token_id") or 0)
    names = [tensor.name for tensor in inputs]
    batches = random_batches(names, int(checkpoint.config["vocab_size"]), (first, last), checkpoint.limit)
    for batch in batches:
        ids = batch["input_ids"]
        lengths = np.full(len(ids), ids.shape[1])
        place_marks(checkpoint.model, checkpoint.task, ids, lengths, spare_id(checkpoint))
    # A single row, with the axes that the graph's inputs have between the first and the last.
    between = tuple(range(1, len(checkpoint.task.answer.input_axes) - 1))
    batches = [{name: np.expand_dims(array, between) for name, array in batch.items()} for batch in batches]
    for index, text in enumerate(texts):
        pairs = [texts[(index + 1) % len(texts)]] if checkpoint.task.pairs else None
        batches.append(encode(checkpoint, names, [text], pairs))
    return batches
