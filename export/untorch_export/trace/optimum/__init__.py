"""The tracer for transformers 4.57: Optimum's description of each architecture and PyTorch's TorchScript exporter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from untorch_export.checkpoint.tasks import Task
from untorch_export.trace.optimum import forward, generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trace(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    """Write the fp32 graphs of a model into `folder`; their paths by role. Raises ExportError."""
    if task.answer.generates:
        return generation.convert(model, task, folder)
    path = folder / "model.onnx"
    forward.convert(model, task, path)
    return {"model": path}
