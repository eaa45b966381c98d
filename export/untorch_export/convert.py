"""PyTorch → ONNX, through Optimum's own description of each architecture and the TorchScript exporter.

The graph has standard operators only, and the axes `batch` and `sequence`. Graphs from the dynamo exporter cannot
be fused afterwards, and without fusion int8 is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch_export import graph
from untorch_export.errors import ExportError
from untorch_export.tasks import HIDDEN, Task

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto
    from transformers import PreTrainedModel

# Optimum's names for the axes → the bundle's.
_AXES = {"batch_size": "batch", "sequence_length": "sequence", "num_choices": "choices"}


# Architectures that tracing gets wrong, and why.
_UNTRACEABLE = {
    "longformer": "its attention walks over windows (LongformerSelfAttention._chunk: as_strided, or a loop that is "
    "unrolled), and a traced graph keeps the number of windows of the text it was traced with",
}


def convert(model: PreTrainedModel, task: Task, path: Path) -> None:
    """Write the fp32 graph `path` and its weights beside it, with the outputs `task.graph_outputs`.

    Raises ExportError for an architecture that Optimum cannot export, or not for this task.
    """
    import onnx
    from optimum.exporters.onnx import export as optimum_export

    if reason := _UNTRACEABLE.get(model.config.model_type):
        raise ExportError(f"{type(model).__name__} cannot be converted to ONNX: {reason}")
    config = _onnx_config(model, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    with hidden_states(model, task):
        try:
            optimum_export(model, config, path, disable_dynamic_axes_fix=True)
        except Exception as error:  # a model that cannot be traced fails in its own way
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ExportError(f"{type(model).__name__} cannot be converted to ONNX: {reason}") from error
    converted = onnx.load(str(path))
    _fix_axes(converted, config)
    graph.save(converted, path)


@contextmanager
def hidden_states(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """While it lasts, a model with a head also returns its last hidden states, as the last of its outputs."""
    if task.graph_outputs == task.outputs:
        yield
        return
    captured: list[torch.Tensor] = []

    def capture(_module: Any, _arguments: Any, output: Any) -> None:
        captured.append(output[0])

    def add(_module: Any, _arguments: Any, output: Any) -> dict[str, Any]:
        return {**{name: output[name] for name in task.outputs}, HIDDEN: captured.pop()}

    handles = [model.base_model.register_forward_hook(capture), model.register_forward_hook(add)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _onnx_config(model: PreTrainedModel, task: Task) -> Any:
    """Optimum's description of the model, with this task's outputs and the bundle's axis names."""
    import optimum.exporters.onnx.model_configs  # noqa: F401  # fills the registry
    from optimum.exporters.tasks import TasksManager

    kind = model.config.model_type
    try:
        supported = TasksManager.get_supported_tasks_for_model_type(kind, "onnx", library_name="transformers")
        # Its descriptions know every head of an encoder, also where its list of tasks leaves some out.
        described = (
            task.exporter if task.exporter in supported or model.config.is_encoder_decoder else "feature-extraction"
        )
        base = TasksManager.get_exporter_config_constructor("onnx", model, task=described, library_name="transformers")(
            model.config
        )
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ExportError(f"Optimum cannot export {kind} for {task.name}: {str(error).partition('.')[0]}") from error

    # Optimum would try two types of tokens; a model that knows one fills it in by itself.
    absent = {"token_type_ids"} if getattr(model.config, "type_vocab_size", 2) < 2 else set()

    class Config(type(base)):  # type: ignore[misc]  # the base is known only here
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: axes for name, axes in _renamed(super().inputs).items() if name not in absent}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            known = {**_renamed(super().outputs), HIDDEN: {0: "batch", 1: "sequence"}}
            return {name: known[name] for name in task.graph_outputs}

    return Config(model.config, task=task.exporter)


def _renamed(tensors: dict[str, dict[int, str]]) -> dict[str, dict[int, str]]:
    return {name: {index: _AXES.get(axis, axis) for index, axis in axes.items()} for name, axes in tensors.items()}


def _fix_axes(model: ModelProto, config: Any) -> None:
    """Write the axes' names as the bundle has them; tracing gives some of them a name of its own."""
    named = {**config.inputs, **config.outputs}
    for value in (*model.graph.input, *model.graph.output):
        axes: list[str | int] = [
            named[value.name].get(index) or dimension.dim_value or dimension.dim_param
            for index, dimension in enumerate(value.type.tensor_type.shape.dim)
        ]
        graph.set_shape(value, tuple(axes))
