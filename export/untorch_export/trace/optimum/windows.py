"""What of transformers' code cannot be traced as it stands, in a form that can.

The replacements compute the same; PyTorch's own code stays the reference that the graph is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError
from untorch_export.trace.heads import last_eos

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@contextmanager
def traceable(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """While it lasts, the model's code is fit for tracing."""
    if model.config.model_type == "longformer":
        if len(task.answer.input_axes) > 2:
            raise ExportError(
                f"{type(model).__name__} cannot be converted to ONNX: its forward walks over the choices in Python "
                "(_compute_global_attention_mask), and a traced graph keeps their number"
            )
        with _windows():
            yield
    else:
        with last_eos(model, task):
            yield


@contextmanager
def _windows() -> Iterator[None]:
    """Longformer's overlapping windows as joined blocks: a traced `as_strided` keeps the lengths it was traced with.

    So does `len`, by which it counts the tokens that everything attends to. Of these there is always one: a text that
    begins with a separator would have none, and ONNX Runtime divides by their number.
    """
    import torch
    from torch.nn.functional import pad
    from transformers.models.longformer import modeling_longformer as module

    question_end = module._get_question_end_index

    def end(ids: torch.Tensor, separator: int) -> torch.Tensor:
        return question_end(ids, separator).clamp(min=1)

    def count(items: Any) -> Any:
        return items.shape[0] if isinstance(items, torch.Tensor) else len(items)

    def blocks(rows: torch.Tensor, size: int) -> torch.Tensor:
        return rows.reshape(rows.size(0), -1, size, rows.size(2))

    def chunk(rows: torch.Tensor, overlap: int, onnx_export: bool = False) -> torch.Tensor:
        """(rows, length, size) → (rows, length / overlap - 1, 2 * overlap, size)."""
        parts = blocks(rows, overlap)
        return torch.cat([parts[:, :-1], parts[:, 1:]], dim=2)

    def weighted(self: Any, weights: torch.Tensor, values: torch.Tensor, overlap: int) -> torch.Tensor:
        """Weights (batch, length, heads, 2 * overlap + 1) times values (batch, length, heads, size)."""
        batch, length, heads, size = values.size()
        weights = weights.transpose(1, 2).reshape(batch * heads, -1, overlap, 2 * overlap + 1)
        rows = pad(values.transpose(1, 2).reshape(batch * heads, length, size), (0, 0, overlap, overlap), value=-1)
        parts = blocks(rows, overlap)
        windows = torch.cat([parts[:, :-2], parts[:, 1:-1], parts[:, 2:]], dim=2)
        context = torch.matmul(self._pad_and_diagonalize(weights), windows)
        return context.reshape(batch, heads, length, size).transpose(1, 2)

    with (
        mock.patch.object(module.LongformerSelfAttention, "_chunk", staticmethod(chunk)),
        mock.patch.object(module.LongformerSelfAttention, "_sliding_chunks_matmul_attn_probs_value", weighted),
        mock.patch.object(module, "len", count, create=True),
        mock.patch.object(module, "_get_question_end_index", end),
    ):
        yield
