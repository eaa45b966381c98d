"""PyTorch → ONNX for models that generate: graphs with a key-value cache as inputs and outputs.

A decoder-only model is one graph, `model.onnx`: the cache may be empty, so it reads a prompt and continues it alike.
An encoder-decoder model is two: `encoder_model.onnx`, and Optimum's merged decoder, `decoder_model_merged.onnx`, whose
input `use_cache_branch` says whether the keys and values of the encoder's states are in the cache already.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from untorch.errors import first_line
from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError
from untorch_export.graph import files
from untorch_export.graph.ties import share_transposed

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto
    from transformers import PreTrainedModel

# Optimum's names for the axes → the bundle's, in the order in which they are replaced.
_AXES = (
    ("_sequence_length_out", "_sequence"),
    ("past_decoder_sequence_length", "past_sequence"),
    ("decoder_sequence_length", "sequence"),
    ("encoder_sequence", "\0"),  # kept: it ends like the next
    ("sequence_length", "sequence"),
    ("\0_length", "encoder_sequence"),
    ("\0", "encoder_sequence"),
    ("batch_size", "batch"),
)


def convert(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    """Write the fp32 graphs of a model into `folder`; their paths by role.

    Raises ExportError for an architecture that Optimum cannot export with a cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if model.config.is_encoder_decoder:
            return _encoder_decoder(model, task, folder)
        return {"model": _decoder_only(model, task, folder)}
    except ExportError:
        raise
    except Exception as error:  # a model that cannot be traced fails in its own way
        reason = first_line(error)
        raise ExportError(f"{type(model).__name__} cannot be converted to ONNX: {reason}") from error


def _decoder_only(model: PreTrainedModel, task: Task, folder: Path) -> Path:
    config = _description(model, task, use_past_in_inputs=True)
    return _finish(_trace(model, config), folder / "model.onnx")


def _encoder_decoder(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    from optimum.onnx.graph_transformations import merge_decoders

    config = _description(model, task)
    first = _trace(model, config.with_behavior("decoder", use_past=True, use_past_in_inputs=False))
    later = _trace(model, config.with_behavior("decoder", use_past=True, use_past_in_inputs=True))
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        merge_decoders(first, later, save_path=path, strict=False)
        merged = files.load(path)
    return {
        "encoder": _finish(_trace(model.get_encoder(), config.with_behavior("encoder")), folder / "encoder_model.onnx"),
        "decoder": _finish(merged, folder / "decoder_model_merged.onnx"),
    }


def _description(model: PreTrainedModel, task: Task, **options: Any) -> Any:
    """Optimum's description of the model with a cache."""
    import optimum.exporters.onnx.model_configs  # noqa: F401  # fills the registry
    from optimum.exporters.tasks import TasksManager

    kind = model.config.model_type
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            "onnx", model, task=task.exporter, library_name="transformers"
        )
        return constructor(model.config, task=task.exporter, use_past=True, **options)
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ExportError(f"Optimum cannot export {kind} for {task.name}: {str(error).partition('.')[0]}") from error


def _trace(model: PreTrainedModel, config: Any) -> ModelProto:
    """The graph that Optimum traces, in which an output layer reads the embeddings that it is tied to."""
    from optimum.exporters.onnx import export

    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        export(model, config, path, disable_dynamic_axes_fix=True)
        return share_transposed(files.load(path))


def _finish(model: ModelProto, path: Path) -> Path:
    """Give the axes the bundle's names and write the graph."""
    inputs = {value.name: _axes(value) for value in model.graph.input}
    for value in (*model.graph.input, *model.graph.output):
        axes = _axes(value)
        # Tracing loses the sizes of some outputs; the cache goes in as it came out.
        past = inputs.get(value.name.replace("present", "past_key_values"), axes)
        sizes = (size if isinstance(size, int) else axis for axis, size in zip(axes, past, strict=True))
        files.set_shape(value, tuple(sizes))
    files.save(model, path)
    return path


def _axes(value: ValueInfoProto) -> list[str | int]:
    dimensions = value.type.tensor_type.shape.dim
    return [_axis(item.dim_param) if item.dim_param else item.dim_value for item in dimensions]


def _axis(name: str) -> str:
    for theirs, ours in _AXES:
        name = name.replace(theirs, ours)
    return name
