"""Tokens that some models ask for in every text, so that random ids have them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from untorch_export.checkpoint.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def place_marks(model: PreTrainedModel, task: Task, ids: Any, lengths: Any, spare: int) -> None:
    """Give rows of random ids (rows, length) the marks without which the model refuses a text, and no others.

    An encoder-decoder that classifies wants an eos at the end; Longformer's question answering three separators,
    since it attends to the question from everywhere. `lengths` (rows,) are those without padding, and at least
    `least_tokens`; `spare` is an id to put in a mark's place.
    """
    if classifies_at_eos(model, task):
        mark, places = model.config.eos_token_id, [lengths - 1]
    elif _asks_with_separators(model, task):
        middle = (lengths - 1) // 2
        mark, places = model.config.sep_token_id, [middle, middle + 1, lengths - 1]
    else:
        return
    ids[ids == mark] = spare
    for place in places:
        ids[range(len(ids)), place] = mark


def least_tokens(model: PreTrainedModel, task: Task) -> int:
    """The fewest tokens that a text can have."""
    return 4 if _asks_with_separators(model, task) else 1


def classifies_at_eos(model: PreTrainedModel, task: Task) -> bool:
    """Whether the model is an encoder-decoder whose classification head reads the last eos token of a text."""
    return task.answer == "row" and bool(model.config.is_encoder_decoder) and hasattr(model, "classification_head")


def _asks_with_separators(model: PreTrainedModel, task: Task) -> bool:
    return task.answer == "span" and model.config.model_type == "longformer"
