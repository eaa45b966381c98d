"""Rotary positions whose frequencies change with the length of a text (`dynamic`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def held(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, frequencies stay those of texts up to the model's original length.

    A graph cannot compare a length with the last one. The export finds out how long a text may be for this to be right.
    """
    parts = [part for part in model.modules() if "dynamic" in str(getattr(part, "rope_type", ""))]
    parts = [part for part in parts if isinstance(part.rope_type, str)]
    before = [part.rope_type for part in parts]
    for part in parts:
        part.rope_type = "default"
    try:
        yield
    finally:
        for part, kind in zip(parts, before, strict=True):
            part.rope_type = kind
