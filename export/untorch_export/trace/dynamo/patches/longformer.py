"""Longformer: attention in windows, and a few tokens that everything attends to.

transformers lays the windows over one another with strides and Python's own numbers, and looks up which tokens are
global; a traced graph would keep both. Here a row is cut into blocks of half a window, and each looks at itself and at
its neighbours, which is the same and costs as little. Global tokens are the first of a text in every head that has any:
one for a classifier, the question for a reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@contextmanager
def applied(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """While it lasts, Longformer's attention can be traced. Raises ExportError for multiple choice."""
    from transformers.models.longformer import modeling_longformer as module

    if len(task.answer.input_axes) > 2:
        raise ExportError(
            f"{type(model).__name__} cannot be converted to ONNX: its forward walks over the choices in Python "
            "(_compute_global_attention_mask), and a traced graph keeps their number"
        )
    asks = "start_logits" in task.outputs

    def attend(self: Any, hidden_states: Tensor, attention_mask: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        count: Any = 1 if task.answer.one_a_row else 0
        if asks:
            count = _most(attention_mask)
        return (_attention(self, hidden_states, attention_mask, count),)

    with (
        mock.patch.object(module.LongformerSelfAttention, "forward", attend),
        mock.patch.object(module, "_get_question_end_index", _question_end),
    ):
        yield


def length(model: PreTrainedModel) -> int:
    """A length that is padded to several windows."""
    windows = model.config.attention_window
    return 2 * (windows if isinstance(windows, int) else max(windows)) + 1


def _question_end(ids: Tensor, separator: int) -> Tensor:
    """The place of the first separator; at least 1, since a text that begins with one would have no global token."""
    return (ids == separator).long().argmax(1).clamp(min=1)


def _most(mask: Tensor) -> Any:
    """The most global tokens in a row of the batch."""
    import torch

    count = (mask > 0).sum(1).max().item()
    torch._check(count >= 1)
    torch._check(count <= mask.shape[1])
    return count


def _attention(layer: Any, states: Tensor, mask: Tensor, count: Any) -> Tensor:
    """The attention of states (batch, length, hidden), of whose tokens the first `count` may be global.

    `mask` (batch, length) is 0 for a token in windows, less for padding and more for a global one.
    """
    import torch

    side, size = layer.one_sided_attn_window_size, layer.head_dim
    batch = states.shape[0]

    def heads(projected: Tensor) -> Tensor:
        return projected.view(batch, -1, layer.num_heads, size).transpose(1, 2)

    query = heads(layer.query(states)) / math.sqrt(size)
    key, value = heads(layer.key(states)), heads(layer.value(states))

    # (batch, heads, blocks, side, 3 * side): a block's tokens, and those of it and of the blocks around.
    scores = torch.matmul(_blocks(query, side), _around(_blocks(key, side)).transpose(-1, -2))
    near = _around(_blocks((mask == 0).float()[:, None, :, None], side))[..., None, :, 0] > 0
    distance = torch.arange(3 * side)[None] - torch.arange(side)[:, None]
    reached = near & (distance >= 0) & (distance <= 2 * side)
    lowest = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~reached, lowest).reshape(batch, layer.num_heads, -1, 3 * side)

    is_global = (mask > 0)[:, None, None, :]
    some = not isinstance(count, int) or count > 0
    if some:
        first = torch.matmul(query, key.narrow(2, 0, count).transpose(-1, -2))
        scores = torch.cat([first.masked_fill(~is_global.narrow(-1, 0, count), lowest), scores], dim=-1)
    shares = scores.softmax(-1).masked_fill((mask < 0)[:, None, :, None], 0.0)
    windows = shares.narrow(-1, count, 3 * side).reshape(batch, layer.num_heads, -1, side, 3 * side)
    result = torch.matmul(windows, _around(_blocks(value, side))).reshape(batch, layer.num_heads, -1, size)
    if some:
        result = result + torch.matmul(shares.narrow(-1, 0, count), value.narrow(2, 0, count))
        seen = _seen_by_global(layer, states, mask, count, heads)
        own = torch.where(is_global.narrow(-1, 0, count).transpose(-1, -2), seen, result.narrow(2, 0, count))
        result = torch.cat([own, result.narrow(2, count, result.shape[2] - count)], dim=2)
    return result.transpose(1, 2).reshape(batch, -1, layer.embed_dim)


def _seen_by_global(layer: Any, states: Tensor, mask: Tensor, count: Any, heads: Any) -> Tensor:
    """What the first `count` tokens see with their own projections, of everything that is no padding."""
    import torch

    query = heads(layer.query_global(states.narrow(1, 0, count))) / math.sqrt(layer.head_dim)
    key, value = heads(layer.key_global(states)), heads(layer.value_global(states))
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores.masked_fill((mask < 0)[:, None, None, :], torch.finfo(scores.dtype).min)
    return torch.matmul(scores.softmax(-1), value)


def _blocks(rows: Tensor, size: int) -> Tensor:
    """(batch, heads, length, width) in blocks: (batch, heads, length / size, size, width)."""
    return rows.reshape(rows.shape[0], rows.shape[1], -1, size, rows.shape[3])


def _around(blocks: Tensor) -> Tensor:
    """Each block with the ones before and behind it; beyond the ends there are zeros."""
    import torch

    end = torch.zeros_like(blocks[:, :, :1])
    wide = torch.cat([end, blocks, end], dim=2)
    return torch.cat([wide[:, :, :-2], wide[:, :, 1:-1], wide[:, :, 2:]], dim=3)
