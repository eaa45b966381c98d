"""PyTorch → ONNX, through Optimum's own description of each architecture and the TorchScript exporter.

The graph has standard operators only, and the axes `batch` and `sequence`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch_export.checkpoint.inputs import place_marks
from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError
from untorch_export.graph import files
from untorch_export.trace.heads import hidden_states
from untorch_export.trace.optimum.windows import traceable

if TYPE_CHECKING:
    from onnx import ModelProto
    from transformers import PreTrainedModel

# What a tokenizer gives. Decoders count positions by themselves, and a decoder behind an encoder reads the same text.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def convert(model: PreTrainedModel, task: Task, path: Path) -> None:
    """Write the fp32 graph `path` and its weights beside it, with the outputs `task.graph_outputs`.

    Raises ExportError for an architecture that Optimum cannot export, or not for this task.
    """
    import onnx
    from optimum.exporters.onnx import export as optimum_export

    config = _onnx_config(model, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    with hidden_states(model, task), traceable(model, task):
        try:
            optimum_export(model, config, path, disable_dynamic_axes_fix=True)
        except Exception as error:  # a model that cannot be traced fails in its own way
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ExportError(f"{type(model).__name__} cannot be converted to ONNX: {reason}") from error
    converted = onnx.load(str(path))
    _fix_axes(converted, config)
    files.save(converted, path)


def _onnx_config(model: PreTrainedModel, task: Task) -> Any:
    """Optimum's description of the model, with this task's outputs and the bundle's axis names."""
    import optimum.exporters.onnx.model_configs  # noqa: F401  # fills the registry
    import torch
    from optimum.exporters.tasks import TasksManager

    kind = model.config.model_type
    try:
        supported = TasksManager.get_supported_tasks_for_model_type(kind, "onnx", library_name="transformers")
        # Its descriptions know every head, also where its list of tasks leaves some out.
        described = task.exporter if task.exporter in supported else "feature-extraction"
        base = TasksManager.get_exporter_config_constructor("onnx", model, task=described, library_name="transformers")(
            model.config
        )
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ExportError(f"Optimum cannot export {kind} for {task.name}: {str(error).partition('.')[0]}") from error

    # Optimum would try two types of tokens; a model that knows one fills it in by itself.
    known = _INPUTS[:2] if getattr(model.config, "type_vocab_size", 2) < 2 else _INPUTS

    class Config(type(base)):  # type: ignore[misc]  # the base is known only here
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: dict(enumerate(task.answer.input_axes)) for name in super().inputs if name in known}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {name: dict(enumerate(task.answer.axes(name))) for name in task.graph_outputs}

        def generate_dummy_inputs(self, framework: str = "pt", **shapes: Any) -> dict[str, Any]:
            if model.config.model_type == "longformer":  # its padding to whole windows has to be traced, too
                shapes["sequence_length"] = 3 * max(model.config.attention_window) + 1
            inputs = super().generate_dummy_inputs(framework, **shapes)
            ids = inputs["input_ids"]
            place_marks(model, task, ids, torch.full(ids.shape[:1], ids.shape[-1]), spare=3)
            return inputs

    return Config(model.config, task=task.exporter)


def _fix_axes(model: ModelProto, config: Any) -> None:
    """Write the axes' names as the bundle has them; tracing gives some of them a name of its own."""
    named = {**config.inputs, **config.outputs}
    for value in (*model.graph.input, *model.graph.output):
        axes: list[str | int] = [
            named[value.name].get(index) or dimension.dim_value or dimension.dim_param
            for index, dimension in enumerate(value.type.tensor_type.shape.dim)
        ]
        files.set_shape(value, tuple(axes))
