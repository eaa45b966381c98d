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

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@contextmanager
def traceable(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """While it lasts, the model's code is fit for tracing."""
    if model.config.model_type == "longformer":
        if task.answer == "choice":
            raise ExportError(
                f"{type(model).__name__} cannot be converted to ONNX: its forward walks over the choices in Python "
                "(_compute_global_attention_mask), and a traced graph keeps their number"
            )
        with _windows():
            yield
    elif classifies_at_eos(model, task):
        model.forward = _last_eos(model)
        try:
            yield
        finally:
            del model.forward
    else:
        yield


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


def _asks_with_separators(model: PreTrainedModel, task: Task) -> bool:
    return task.answer == "span" and model.config.model_type == "longformer"


def classifies_at_eos(model: PreTrainedModel, task: Task) -> bool:
    """Whether the model is an encoder-decoder whose classification head reads the last eos token of a text."""
    return task.answer == "row" and bool(model.config.is_encoder_decoder) and hasattr(model, "classification_head")


def _last_eos(model: PreTrainedModel) -> Any:
    """Classify at the last eos token of each row.

    transformers takes all eos tokens out and asks for the same number in each row. A text that spells one out would
    then break the batch that it happens to be in.
    """
    import torch
    from transformers.modeling_outputs import Seq2SeqSequenceClassifierOutput

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Seq2SeqSequenceClassifierOutput:
        # BART shifts the text by itself, T5 leaves that to its heads.
        shifted = {"decoder_input_ids": model._shift_right(input_ids)} if hasattr(model, "_shift_right") else {}
        states = model.base_model(input_ids, attention_mask=attention_mask, **shifted)[0]
        rows, length = torch.arange(input_ids.shape[0]), torch.arange(input_ids.shape[1])
        is_eos = input_ids.eq(model.config.eos_token_id)
        # A row without any has its last one behind the end, where there is nothing to be read: an error, as there.
        last = torch.where(is_eos.any(-1), (is_eos * length).argmax(-1), input_ids.shape[1])
        return Seq2SeqSequenceClassifierOutput(logits=model.classification_head(states[rows, last]))

    return forward


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
