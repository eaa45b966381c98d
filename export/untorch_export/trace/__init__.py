"""From a loaded PyTorch model to graphs of standard ONNX operators.

There are two tracers behind one interface, `trace`, and the installed transformers decides: `dynamo` under
transformers 5, `optimum` under 4.57, whose descriptions of architectures Optimum's last exporter has. Both give the
same inputs, outputs and axis names; they differ in the operators. In a graph of `dynamo` an attention layer is one
`Attention` node.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from untorch_export.checkpoint.tasks import Task


def trace(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    """Write the fp32 graphs of a model into `folder`, their weights beside them; return the paths by role.

    A model with one graph has the role `model`; an encoder-decoder that generates has `encoder` and `decoder`.
    Raises ExportError for an architecture that cannot be traced, or not for this task.
    """
    if transformers_5():
        from untorch_export.trace import dynamo as tracer
    else:
        from untorch_export.trace import optimum as tracer  # type: ignore[no-redef]
    folder.mkdir(parents=True, exist_ok=True)
    return tracer.trace(model, task, folder)


def transformers_5() -> bool:
    """Whether the installed transformers is 5 or newer."""
    import transformers

    return int(transformers.__version__.partition(".")[0]) >= 5
