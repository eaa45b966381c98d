"""Models that read a text once: heads and bare models, one graph each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch_export.checkpoint.inputs import place_marks
from untorch_export.checkpoint.tasks import Task
from untorch_export.graph import files
from untorch_export.trace.dynamo import patches, samples
from untorch_export.trace.dynamo.program import convert
from untorch_export.trace.heads import hidden_states, last_eos

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel


def trace(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    """Write `model.onnx`, with the outputs `task.graph_outputs`."""
    sample = _sample(model, task)
    axes = dict(enumerate(task.answer.input_axes))
    outputs = {name: dict(enumerate(task.answer.axes(name))) for name in task.graph_outputs}
    with hidden_states(model, task), last_eos(model, task), patches.applied(model, task), without_cache(model):
        graph = convert(_module(model, task, list(sample)), sample, dict.fromkeys(sample, axes), outputs)
    path = folder / "model.onnx"
    files.save(graph, path)
    return {"model": path}


def _module(model: PreTrainedModel, task: Task, names: list[str]) -> torch.nn.Module:
    from torch import nn

    class Forward(nn.Module):
        """The model, called with tensors in the order of `names`."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            outputs = model(**patches.arguments(model, dict(zip(names, tensors, strict=True))))
            return tuple(outputs[name] for name in task.graph_outputs)

    return Forward().eval()


def _sample(model: PreTrainedModel, task: Task) -> dict[str, Any]:
    """Ids, a mask with real padding, and types of tokens where the model has any."""
    import torch

    rows = samples.BATCH * task.answer.rows_an_input
    length = patches.length(model)
    lengths = torch.full((rows,), length)
    lengths[1::2] = length // 2 + 1
    ids = samples.ids(model, rows, length)
    place_marks(model, task, ids, lengths, spare=3)
    mask = (torch.arange(length) < lengths[:, None]).long()
    sample = {"input_ids": ids, "attention_mask": mask}
    if patches.has_token_types(model):
        sample["token_type_ids"] = (torch.arange(length) >= lengths[:, None] // 2).long() * mask
    if not patches.has_mask(model):
        del sample["attention_mask"]
    return {name: task.answer.shaped(tensor) for name, tensor in sample.items()}


@contextmanager
def without_cache(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, a decoder keeps no cache: nobody reads on."""
    configs = [config for config in (model.config, model.config.get_text_config()) if hasattr(config, "use_cache")]
    before = [config.use_cache for config in configs]
    for config in configs:
        config.use_cache = False
    try:
        yield
    finally:
        for config, value in zip(configs, before, strict=True):
            config.use_cache = value
