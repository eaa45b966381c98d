"""The variants of a bundle before they are compared: the graphs of every precision, written and described."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch.bundle.manifest import GraphFile, Variant
from untorch.bundle.precisions import FP32
from untorch.numerics import Tensor
from untorch.ort.session import Session
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.errors import ExportWarning
from untorch_export.graph import files, fusion, portable
from untorch_export.graph.fp16 import to_fp16
from untorch_export.graph.head import head_only
from untorch_export.precisions import REDUCED, Precision
from untorch_export.quantize import calibration
from untorch_export.quantize.ranges import Activations, observe
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
    texts: Sequence[str],
    progress: Progress,
) -> dict[str, Variant]:
    """Write the graph of every precision, not yet compared. fp32 is made in any case; the others come from it.

    Left out are fp16_packed, with a warning, where attention does not allow it, and int8_kernels where the graph has
    nothing that its operators could do. The `texts` are for calibration. The manifest says of each variant the opset of
    the ONNX standard that a reader needs (`opset`). That of fp32 is one that older readers know, in graphs that read a
    text once; a decoder keeps its newer `Attention`, which is faster where keys have fewer heads than queries.
    """
    folder = bundle / "onnx" if FP32 in precisions or checkpoint.task.answer.generates else scratch
    progress("convert", 0, 1)
    paths = trace(checkpoint.model, checkpoint.task, folder)
    progress("convert", 1, 1)
    if checkpoint.task.answer.generates:
        described = {role: _described(path, bundle) for role, path in paths.items()}
        return {FP32: Variant(FP32, described, extra={"opset": max(map(files.opset, paths.values()))})}
    source = paths["model"]
    graphs = Graphs(checkpoint, source, texts)
    writer = _Writer(bundle, graphs)
    variants: dict[str, Variant] = {}
    if FP32 in precisions:
        whole = Variant(FP32, {"model": _described(source, bundle)})
        head = graphs.head("cpu") if checkpoint.task.answer.one_a_row else None
        # A copy, since writing a graph moves its weights out of it.
        variants[FP32] = writer.with_head(whole, deepcopy(head), graphs.inputs)
    wanted = [[row for row in rows if row.name in precisions] for rows in _sharing(REDUCED)]
    for rows in filter(None, wanted):
        step = " and ".join(row.name for row in rows)
        progress(step, 0, 1)
        variants |= writer.write(rows)
        progress(step, 1, 1)
    if (fp32 := variants.get(FP32)) is not None:
        portable.rewrite(source)  # now that the others were made from what it had
        rewritten = {**fp32.graphs, "model": _described(source, bundle)}
        variants[FP32] = replace(fp32, graphs=rewritten, extra={"opset": files.opset(source)})
    return variants


def _sharing(rows: Sequence[Precision]) -> Iterable[list[Precision]]:
    """The rows in lists of those that share a data file."""
    lists: dict[str, list[Precision]] = {}
    for row in rows:
        lists.setdefault(row.shared or row.name, []).append(row)
    return lists.values()


def _described(path: Path, bundle: Path) -> GraphFile:
    """The manifest's entry for a graph as it was traced, whose inputs and outputs ONNX Runtime names."""
    session = Session(path, device="cpu")
    return files.describe(path, bundle, session.inputs, session.outputs)


class Graphs:
    """The graphs of a checkpoint that its variants are made from, each made when it is asked for first."""

    def __init__(self, checkpoint: Checkpoint, source: Path, texts: Sequence[str]) -> None:
        self._checkpoint = checkpoint
        self._source = source
        self.texts = texts
        self.kind = str(checkpoint.config["model_type"])
        session = Session(source, device="cpu")
        self.inputs, self.outputs = session.inputs, session.outputs
        # Fused for one kind of device at a time: each has a copy of the weights.
        self._device = ""
        self._fused: dict[str, ModelProto | None] = {}
        self._halved: dict[str, ModelProto] = {}

    @functools.cached_property
    def layers(self) -> int:
        """How many attention layers the model has."""
        return fusion.layers(self._source)

    @functools.cached_property
    def seen(self) -> Activations:
        """What the activations of the fp32 graph are like on the texts for calibration."""
        return observe(self.fused("model", "cpu"), calibration.batches(self._checkpoint, self.texts, self.inputs))

    def head(self, device: str) -> ModelProto | None:
        """The fp32 graph of the head alone, fused for a kind of device; None where no head reads a single token."""
        whole = self.fused("model", device)
        if "head" not in self._fused:
            one_a_row = self._checkpoint.task.answer.one_a_row
            self._fused["head"] = head_only(whole, "logits") if one_a_row else None
        return self._fused["head"]

    def fused(self, role: str, device: str) -> ModelProto:
        """The fp32 graph with operators that a kind of device (`cpu` or `cuda`) runs fast."""
        if device != self._device:
            self._device = device
            self._halved.clear()
            self._fused = {"model": fusion.fuse(self._source, self._checkpoint.config, device=device)}
        found = self._fused["model"] if role == "model" else self.head(device)
        assert found is not None, "a head is asked for only where there is one"
        return found

    def halved(self, role: str) -> ModelProto:
        """The same for a GPU, in fp16."""
        fused = self.fused(role, "cuda")
        if role not in self._halved:
            self._halved[role] = to_fp16(fused)
        return self._halved[role]


class _Writer:
    """Writes variants into a bundle."""

    def __init__(self, bundle: Path, graphs: Graphs) -> None:
        self._bundle = bundle
        self._folder = bundle / "onnx"
        self._graphs = graphs
        self._warned = False

    def write(self, rows: Sequence[Precision]) -> dict[str, Variant]:
        """The variants of precisions that share a data file, or of a single one; without those that cannot be had."""
        made = {row.name: row.make(self._graphs, "model") for row in rows}
        models = {name: model for name, model in made.items() if model is not None}
        several = len(models) > 1
        shared = files.save_shared(list(models.values()), self._folder / rows[0].shared) if several else None
        variants = {}
        for row in rows:
            if (model := models.get(row.name)) is not None:
                variants[row.name] = self._variant(row, model, shared)
            elif row.absent:
                warnings.warn(row.absent.format(kind=self._graphs.kind), ExportWarning, stacklevel=4)
        return variants

    def _variant(self, row: Precision, model: ModelProto, shared: files.Places | None) -> Variant:
        path = self._folder / f"model_{row.name}.onnx"
        unfused = fusion.unfused(model)
        if row.beside:
            files.save_beside(model, path, self._folder / f"model_{row.beside}.onnx")
        else:
            files.save(model, path, elsewhere=shared)
        inputs = (*self._graphs.inputs, *row.feeds)
        described = files.describe(path, self._bundle, inputs, self._graphs.outputs, optimized=True)
        whole = Variant(row.name, {"model": described}, extra=self._said(row, described, unfused))
        made_of_head = row.make(self._graphs, "head") if self._graphs.head(row.device) is not None else None
        return self.with_head(whole, made_of_head, inputs)

    def _said(self, row: Precision, described: GraphFile, unfused: dict[str, int]) -> dict[str, Any]:
        """What the manifest says of a variant: fused layers, and why others are not, texts for calibration."""
        layers, count = self._graphs.layers, fusion.fused_attention(described.fused)
        opset = files.opset(self._bundle / described.file)
        said: dict[str, Any] = {"layers": layers, "fused_layers": count, "opset": opset, **row.extra}
        if count < layers:
            said["unfused"] = unfused
            self._warn(row, count, layers, unfused)
        if row.calibrated:
            said["calibration_texts"] = len(self._graphs.texts)
        return said

    def _warn(self, row: Precision, count: int, layers: int, unfused: dict[str, int]) -> None:
        """Say once how many layers are not fused, and why."""
        if self._warned:
            return
        self._warned = True
        rest = layers - count - sum(unfused.values())
        reasons = unfused | ({"its form is not known": rest} if rest > 0 else {})
        warnings.warn(
            f"only {count} of {layers} attention layers fused ({self._graphs.kind}), so that {row.name} is slower than "
            f"it could be. Not fused: {'; '.join(f'{number}, since {why}' for why, number in reasons.items())}",
            ExportWarning,
            stacklevel=6,
        )

    def with_head(self, variant: Variant, head: ModelProto | None, inputs: tuple[Tensor, ...]) -> Variant:
        """The variant and, beside its whole graph, the one for the head alone, which shares the whole graph's weights.

        Its inputs are among `inputs`.
        """
        if head is None:
            return variant
        whole = variant.graphs["model"]
        path = self._bundle / whole.file.replace("model", "head")
        files.save_beside(head, path, self._bundle / whole.file)
        names = {output.name for output in head.graph.output}
        outputs = tuple(output for output in whole.outputs if output.name in names)
        described = files.describe(path, self._bundle, inputs, outputs, optimized=True)
        return replace(variant, graphs={**variant.graphs, "head": described})
