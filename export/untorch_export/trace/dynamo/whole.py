"""Decoder-only models whose cache is more than keys and values: one graph that reads the whole text at every step."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError, ExportWarning
from untorch_export.graph import files
from untorch_export.trace.dynamo import patches, samples
from untorch_export.trace.dynamo.forward import without_cache
from untorch_export.trace.dynamo.program import Axes, convert, reason

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

TEXT: Axes = {0: "batch", 1: "sequence"}
# How many tokens `generate` and the model alone are compared on.
_TOKENS = 4


def trace(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    """Write `model.onnx`: ids, mask and positions of a whole text in, logits out. Warns that it is slow.

    Raises ExportError for a model whose `generate` feeds it more than the text, as XLNet's does.
    """
    if not _reads_text_alone(model):
        raise ExportError(
            f"{type(model).__name__} cannot be exported to generate: it keeps no cache of keys and values, "
            "and its generate() feeds it more than the text so far"
        )
    sample = _sample(model)
    try:
        with patches.applied(model, task), without_cache(model):
            graph = convert(_module(model, list(sample)), sample, dict.fromkeys(sample, TEXT), {"logits": TEXT})
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} cannot be exported to generate: it keeps a state of its own instead of keys and "
            f"values, and cannot be traced without it: {reason(error)}"
        ) from error
    path = folder / "model.onnx"
    files.save(graph, path)
    warnings.warn(
        f"{type(model).__name__} keeps more than keys and values of what it has read (states, or indices); "
        "its bundle keeps nothing, and reads the whole text again for every new token",
        ExportWarning,
        stacklevel=2,
    )
    return {"model": path}


def _module(model: PreTrainedModel, names: list[str]) -> torch.nn.Module:
    from torch import nn

    class Whole(nn.Module):
        """The model, called with tensors in the order of `names`."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> tuple[Tensor]:
            return (self.model(**dict(zip(names, tensors, strict=True)), return_dict=True).logits,)

    return Whole().eval()


def _sample(model: PreTrainedModel) -> dict[str, Any]:
    """Two texts, one of them padded on the left."""
    import torch

    mask = torch.ones(samples.BATCH, samples.SEQUENCE, dtype=torch.long)
    mask[1, :5] = 0
    sample = {"input_ids": samples.ids(model, samples.BATCH, samples.SEQUENCE), "attention_mask": mask}
    if not patches.has_mask(model):
        del sample["attention_mask"]
    if samples.reads_positions(model):
        sample["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return sample


def _reads_text_alone(model: PreTrainedModel) -> bool:
    """Whether `generate` feeds the model the text so far, and chooses what its own logits for that would."""
    import torch

    ids = samples.ids(model, 1, samples.SEQUENCE)
    fed = model.prepare_inputs_for_generation(ids, attention_mask=torch.ones_like(ids), is_first_iteration=True)
    if not torch.equal(fed["input_ids"], ids):
        return False
    with torch.no_grad():
        found = model.generate(ids, max_new_tokens=_TOKENS, min_new_tokens=_TOKENS, do_sample=False, num_beams=1)
        logits = model(input_ids=found[:, :-1]).logits[0]
    chosen = found[0, ids.shape[1] :]
    scores = logits[ids.shape[1] - 1 :]
    eos = model.generation_config.eos_token_id
    for token in [] if eos is None else [eos] if isinstance(eos, int) else eos:
        scores[:, token] = -torch.inf  # what min_new_tokens does
    return bool(torch.equal(scores.argmax(-1), chosen))
