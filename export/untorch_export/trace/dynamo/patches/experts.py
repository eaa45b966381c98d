"""Mixtures whose experts get lists of tokens, counted in Python: JetMoE's, and those of the Granite family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def has_lists(model: PreTrainedModel) -> bool:
    """Whether a part of the model hands its experts lists of tokens."""
    return any(type(part).__name__.endswith("ParallelExperts") for part in model.modules())


@contextmanager
def applied(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, experts get their tokens by counts that stay tensors.

    A count that is read into Python is a constant of the graph: every text would be shared out as the sample was.
    """
    parts = {type(part) for part in model.modules()}
    with ExitStack() as patches:
        for part in parts:
            if part.__name__.endswith("TopKGating"):
                patches.enter_context(mock.patch.object(part, "forward", _gates))
            if part.__name__.endswith("ParallelExperts"):
                patches.enter_context(mock.patch.object(part, "forward", _products))
        yield


def _gates(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The tokens (tokens x chosen) in the order of their experts, their rows and weights, how far each expert's go."""
    import torch

    logits = self.layer(hidden_states).float()
    scores, chosen = logits.topk(self.top_k, dim=1)
    weights = torch.softmax(scores, dim=1).type_as(hidden_states).flatten()
    order = chosen.flatten().sort(stable=True).indices
    # One row an expert: (experts, tokens x chosen). How many choices are of this expert or of one before it.
    ends = (chosen.flatten()[None] <= torch.arange(logits.shape[1])[:, None]).sum(1)
    return order, order // self.top_k, weights[order], ends, logits


def _products(self: Any, inputs: Tensor, ends: Tensor) -> Tensor:
    """Each expert's matrix times its tokens, which end at `ends`."""
    import torch

    product: Tensor = torch.ops.transformers.grouped_mm_fallback(inputs, self.weight.transpose(1, 2), ends)
    return product
