"""What a model is called with while it is traced: small, and no size that PyTorch would take for a fixed one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# PyTorch would keep a size of one.
BATCH, SEQUENCE = 2, 17


def vocabulary(model: PreTrainedModel) -> int:
    """How many ids the model has; where it names none, as CANINE, which reads characters, some that it surely has."""
    return int(getattr(model.config.get_text_config(), "vocab_size", None) or 128)


def accepts(model: PreTrainedModel, name: str) -> bool:
    """Whether the model's forward names an argument."""
    return name in inspect.signature(type(model).forward).parameters


def ids(model: PreTrainedModel, rows: int, length: int, seed: int = 0) -> Any:
    """Random ids (rows, length) without the padding's, which some models take for a position that is not there."""
    import torch

    count, pad = vocabulary(model), getattr(model.config.get_text_config(), "pad_token_id", None)
    drawn = np.random.default_rng(seed).integers(0, count - 1, (rows, length))
    drawn[drawn >= (count if pad is None or pad < 0 else pad)] += 1
    return torch.from_numpy(drawn)


def reads_positions(model: PreTrainedModel) -> bool:
    """Whether the model takes positions, and counts them from 0: RoBERTa's begin behind the padding's id."""
    import torch

    if not accepts(model, "position_ids"):
        return False
    drawn = ids(model, BATCH, SEQUENCE)
    positions = torch.arange(SEQUENCE).expand(BATCH, -1)
    with torch.no_grad():
        own, ours = model(input_ids=drawn).logits, model(input_ids=drawn, position_ids=positions).logits
    return bool(torch.allclose(own, ours, rtol=1e-4, atol=1e-5))
