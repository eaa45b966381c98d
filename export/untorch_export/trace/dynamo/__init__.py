"""The tracer for transformers 5: PyTorch's own export, every architecture's code as it stands.

Attention, rotary positions, norms and GELU stay operators of their own. transformers' exporters package is borrowed
for what it knows of its models' code and of PyTorch's faults; the graph that comes out is read, renamed and cleaned
here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError
from untorch_export.trace.dynamo import decoder, encoder_decoder, forward
from untorch_export.trace.dynamo.program import reason

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trace(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    """Write the fp32 graphs of a model into `folder`; their paths by role. Raises ExportError."""
    try:
        if not task.answer.generates:
            return forward.trace(model, task, folder)
        if model.config.is_encoder_decoder:
            return encoder_decoder.trace(model, task, folder)
        return decoder.trace(model, task, folder)
    except ExportError:
        raise
    except Exception as error:  # a model that cannot be traced fails in its own way
        raise ExportError(f"{type(model).__name__} cannot be converted to ONNX: {reason(error)}") from error
