"""Funnel: positions of a text that is halved from block to block, as sequences that need not be written out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Positions:
    """The first token's position, and `count` others from `start` on, `step` apart. Sizes may be symbols."""

    first: Any
    start: Any
    step: Any
    count: Any

    @property
    def size(self) -> Any:
        return self.count + 1

    @property
    def last(self) -> Any:
        """Also right where there are no others: `start` lies one step behind the first token then."""
        return self.start + (self.count - 1) * self.step

    def halved(self, block: int, truncated: bool) -> _Positions:
        """Every second of the others, the last left out where the model does so."""
        rest = self.count if truncated else self.count + 1
        return _Positions(1 - 2**block, self.start, 2 * self.step, rest // 2)


@contextmanager
def applied(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """While it lasts, Funnel's relative positions can be traced. Raises ExportError for rare settings of them."""
    from transformers.models.funnel import modeling_funnel as module

    config = model.config
    if task.answer.one_a_row:
        raise ExportError(
            f"{type(model).__name__} cannot be converted to ONNX: its classifier reads a quarter of the tokens, "
            "and a bundle gives hidden states for each"
        )
    if not config.separate_cls or config.attention_type == "factorized":
        raise ExportError(
            f"{type(model).__name__} cannot be converted to ONNX with separate_cls {config.separate_cls} and "
            f"attention_type {config.attention_type}; published checkpoints have true and relative_shift"
        )

    def embeddings(self: Any, length: Any, dtype: torch.dtype, device: Any) -> list[list[Tensor | None]]:
        import torch

        half = config.d_model // 2
        frequencies = 1 / (10000 ** (torch.arange(half, dtype=dtype) / half))
        places = torch.arange(-2 * length, 2 * length).to(dtype)
        angles = places[:, None] * frequencies[None]
        table = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)

        def between(keys: _Positions, stride: int, queries: _Positions, shift: int) -> Tensor:
            farthest = queries.first - keys.first + shift * queries.size * stride
            return table[torch.arange(farthest, queries.first - keys.last - 1, -stride) + 2 * length]

        positions, found = _Positions(0, 1, 1, length - 1), []
        for block in range(config.num_blocks):
            pooling = None
            if block:
                pooled = positions.halved(block, config.truncate_seq)
                pooling = between(positions, 2 ** (block - 1), pooled, 2)
                positions = pooled
            found.append([between(positions, 2**block, positions, 1), pooling])
        return found

    with mock.patch.object(module.FunnelAttentionStructure, "get_position_embeds", embeddings):
        yield
