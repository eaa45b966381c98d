"""What a head is made to give while its graph is traced, and while PyTorch is the reference for that graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from untorch_export.answers import HIDDEN
from untorch_export.checkpoint.inputs import classifies_at_eos
from untorch_export.checkpoint.tasks import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@contextmanager
def hidden_states(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """While it lasts, a model with a head also returns its last hidden states, as the last of its outputs."""
    if task.graph_outputs == task.outputs:
        yield
        return
    captured: list[torch.Tensor] = []

    def capture(_module: Any, _arguments: Any, output: Any) -> None:
        captured.append(output[0])

    def add(_module: Any, _arguments: Any, output: Any) -> dict[str, Any]:
        return {**{name: output[name] for name in task.outputs}, HIDDEN: captured.pop()}

    base = model.base_model if model.base_model is not model else model.get_decoder()
    handles = [base.register_forward_hook(capture), model.register_forward_hook(add)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def last_eos(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """While it lasts, an encoder-decoder with a classification head classifies at the last eos token of each row.

    transformers takes all eos tokens out and asks for the same number in each row. A text that spells one out would
    then break the batch that it happens to be in.
    """
    import torch
    from transformers.modeling_outputs import Seq2SeqSequenceClassifierOutput

    if not classifies_at_eos(model, task):
        yield
        return

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Seq2SeqSequenceClassifierOutput:
        # BART shifts the text by itself, T5 leaves that to its heads.
        shifted = {"decoder_input_ids": model._shift_right(input_ids)} if hasattr(model, "_shift_right") else {}
        states = model.base_model(input_ids, attention_mask=attention_mask, **shifted)[0]
        rows, length = torch.arange(input_ids.shape[0]), torch.arange(input_ids.shape[1])
        is_eos = input_ids.eq(model.config.eos_token_id)
        # A row without any has its last one behind the end, where there is nothing to be read: an error, as there.
        last = torch.where(is_eos.any(-1), (is_eos * length).argmax(-1), input_ids.shape[1])
        return Seq2SeqSequenceClassifierOutput(logits=model.classification_head(states[rows, last]))

    model.forward = forward
    try:
        yield
    finally:
        del model.forward
