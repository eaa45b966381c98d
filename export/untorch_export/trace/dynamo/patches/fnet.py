"""FNet: the Fourier transform of a text, as products with tables of sines and cosines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@contextmanager
def applied() -> Iterator[None]:
    """While it lasts, FNet mixes tokens by products.

    ONNX Runtime's own operator for Fourier transforms is off by 1e-4 where a text's length is no power of two. What is
    read of the transform over tokens and features is its real part, C x C' - S x S', with the tables of both lengths.
    """
    from transformers.models.fnet import modeling_fnet as module

    def forward(_self: Any, states: Tensor) -> tuple[Tensor]:
        tokens, features = _tables(states.shape[1], states.dtype), _tables(states.shape[2], states.dtype)
        return (tokens[0] @ states @ features[0] - tokens[1] @ states @ features[1],)

    with mock.patch.object(module.FNetBasicFourierTransform, "forward", forward):
        yield


def _tables(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (size, size) of the transform. Whole turns are taken off before the angle is rounded."""
    import torch

    places = torch.arange(size).to(dtype)
    turns = places[:, None] * places[None]
    angles = (turns - (turns / size).floor() * size) * (2 * math.pi / size)
    return angles.cos(), angles.sin()
