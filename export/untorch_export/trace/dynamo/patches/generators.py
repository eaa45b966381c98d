"""Decoders that compute with sizes in Python, or in half precision whatever their own is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel


@contextmanager
def mpt() -> Iterator[None]:
    """While it lasts, MPT's cut of its position bias is no condition on sizes.

    It asks for the larger of 0 and the rest of a table: the same of the two for every text that the table is long
    enough for.
    """
    import torch
    from transformers.models.mpt import modeling_mpt as module

    def larger(first: int, second: Any) -> Any:
        known = second.node.hint if isinstance(second, torch.SymInt) else second
        return second if known > first else first

    with mock.patch.object(module, "max", larger, create=True):
        yield


@contextmanager
def falcon(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, Falcon's linear bias is multiplied in fp32, and rounded to bfloat16 as it is there.

    ONNX Runtime multiplies no bfloat16 on the CPU; it does round to it.
    """
    import torch
    from transformers.models.falcon import modeling_falcon as module

    count = model.config.num_attention_heads
    slopes = module.build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), count, torch.float32).reshape(count, 2)[:, 1]

    def alibi(mask: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
        places = ((mask.cumsum(-1) - 1) * mask)[:, None, :]
        bias = (slopes[:, None] * places).bfloat16().to(dtype)
        return bias.reshape(-1, 1, mask.shape[1])

    with mock.patch.object(module, "build_alibi_tensor", alibi):
        yield
