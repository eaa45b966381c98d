"""Decoder-only models that generate: one graph, whose cache may be empty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch_export.checkpoint.tasks import Task
from untorch_export.graph import files
from untorch_export.graph.ties import share_transposed
from untorch_export.trace.dynamo import caches, patches, samples, whole
from untorch_export.trace.dynamo.program import Axes, convert

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

# How many tokens the sample has read before, and how many it reads: one would stay one.
PAST, SEQUENCE = 5, 3
# Axes: of what is read, of a cache before, and of what is there after.
TEXT: Axes = {0: "batch", 1: "sequence"}
PAST_CACHE: Axes = {0: "batch", 2: "past_sequence"}
PRESENT_CACHE: Axes = {0: "batch", 2: "past_sequence + sequence"}


def trace(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    """Write `model.onnx`: ids, mask, positions and a cache in; logits and the cache after them out.

    Where the model keeps something else than keys and values, nothing is kept: see `whole`.
    """
    past = _past(model)
    if past is None:
        return whole.trace(model, task, folder)
    sample = _sample(model)
    inputs = caches.named(past, "past_key_values")
    axes = {**dict.fromkeys(sample, TEXT), **dict.fromkeys(inputs, PAST_CACHE)}
    axes["attention_mask"] = {0: "batch", 1: PRESENT_CACHE[2]}
    outputs = {"logits": TEXT, **dict.fromkeys(caches.named(past, "present"), PRESENT_CACHE)}
    with patches.applied(model, task):
        graph = convert(_module(model, [*sample, *inputs]), {**sample, **inputs}, axes, outputs)
    graph = share_transposed(graph)
    path = folder / "model.onnx"
    files.save(graph, path)
    return {"model": path}


def _module(model: PreTrainedModel, names: list[str]) -> torch.nn.Module:
    from torch import nn

    class Decoder(nn.Module):
        """The model, called with tensors in the order of `names`, the cache's among them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            given = dict(zip(names, tensors, strict=True))
            past = caches.unnamed(given)
            text = {name: tensor for name, tensor in given.items() if not name.startswith("past_key_values")}
            outputs = model(**text, past_key_values=caches.filled(past), use_cache=True, return_dict=True)
            present = caches.read(outputs.past_key_values, model)
            return (outputs.logits, *caches.named(present, "present").values())

    return Decoder().eval()


def _past(model: PreTrainedModel) -> caches.Layers | None:
    """Keys and values of the tokens before the sample's; None from a model that keeps something else, or nothing."""
    import torch

    ids = samples.ids(model, samples.BATCH, PAST + SEQUENCE)
    try:
        with torch.no_grad():
            read = model(input_ids=ids[:, :PAST], past_key_values=caches.empty(), use_cache=True)
        return caches.read(read.past_key_values, model)
    except Exception:  # each kind of cache fails in its own way where a plain one is given
        return None


def _sample(model: PreTrainedModel) -> dict[str, Any]:
    """Two texts, one of them padded on the left, after the tokens whose cache `_past` is."""
    import torch

    mask = torch.ones(samples.BATCH, PAST + SEQUENCE, dtype=torch.long)
    mask[1, :2] = 0
    ids = samples.ids(model, samples.BATCH, PAST + SEQUENCE)
    sample = {"input_ids": ids[:, PAST:], "attention_mask": mask}
    if samples.reads_positions(model):
        sample["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, PAST:]
    return sample
