"""What ids a model takes: batches of random ids and of texts, with the marks that some models cannot do without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from untorch_export.answers import Arrays
from untorch_export.checkpoint.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from untorch_export.checkpoint.load import Checkpoint

_ROLES = ("bos", "eos", "sep", "cls", "unk", "pad")


def ids_of(value: Any) -> list[int]:
    """A config's special token as a list of ids: it may name one, several, or none."""
    if value is None:
        return []
    return [int(item) for item in value] if isinstance(value, (list, tuple)) else [int(value)]


def encode(checkpoint: Checkpoint, names: Sequence[str], texts: Sequence[Any], pairs: Sequence[str] | None) -> Arrays:
    """Texts, or pairs of texts, as one padded batch of the inputs `names`, cut at the model's limit."""
    assert checkpoint.tokenizer is not None
    texts, pairs = checkpoint.task.answer.laid_out(texts, pairs)
    encoded = checkpoint.tokenizer(
        texts,
        pairs,
        padding=len(texts) > 1,
        padding_side="right",  # where a decoder's tokenizer pads left for generating, its heads' positions would shift
        truncation=checkpoint.limit is not None,
        max_length=checkpoint.limit,
        return_tensors="np",
    )
    # What the tokenizer does not give, such as the types of tokens, a model takes for zeros.
    blank = np.zeros_like(encoded["input_ids"])
    return _arranged(checkpoint, names, {name: encoded.get(name, blank) for name in names})


def random_rows(
    checkpoint: Checkpoint,
    names: Sequence[str],
    size: int,
    length: int,
    generator: np.random.Generator,
    *,
    ragged: bool = True,
) -> Arrays:
    """A batch of `size` inputs of random ids. Where it is ragged, all rows but the first end by chance."""
    size *= checkpoint.task.answer.rows_an_input
    pad = checkpoint.pad_token_id
    vocabulary = int(checkpoint.config["vocab_size"])
    ids = generator.integers(0, vocabulary - 1, (size, length))
    ids[ids >= pad] += 1  # any id but the padding's, which some models take for a position that is not there
    least = least_tokens(checkpoint.model, checkpoint.task) if ragged else length
    lengths = generator.integers(least, length + 1, size)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    segments = (np.arange(length) >= (lengths[:, None] + 1) // 2) * mask
    if checkpoint.config.get("type_vocab_size") == 1:
        segments[:] = 0
    place_marks(checkpoint.model, checkpoint.task, ids, lengths, spare_id(checkpoint))
    arrays = {"input_ids": np.where(mask, ids, pad), "attention_mask": mask, "token_type_ids": segments}
    return _arranged(checkpoint, names, arrays)


def _arranged(checkpoint: Checkpoint, names: Sequence[str], arrays: Arrays) -> Arrays:
    return {name: checkpoint.task.answer.shaped(arrays[name]).astype(np.int64) for name in names}


def spare_id(checkpoint: Checkpoint) -> int:
    """An id of an ordinary token: none that the config or the padding has a use for."""
    marks = {checkpoint.pad_token_id}
    for role in _ROLES:
        marks.update(ids_of(checkpoint.config.get(f"{role}_token_id")))
    return next(index for index in range(int(checkpoint.config["vocab_size"])) if index not in marks)


def place_marks(model: PreTrainedModel, task: Task, ids: Any, lengths: Any, spare: int) -> None:
    """Give rows of random ids (rows, length) the marks without which the model refuses a text, and no others.

    An encoder-decoder that classifies wants an eos at the end; Longformer's question answering three separators,
    since it attends to the question from everywhere. `lengths` (rows,) are those without padding, and at least
    `least_tokens`; `spare` is an id to put in a mark's place.
    """
    if classifies_at_eos(model, task):
        mark, places = ids_of(model.config.eos_token_id)[0], [lengths - 1]
    elif _asks_with_separators(model, task):
        middle = (lengths - 1) // 2
        mark, places = model.config.sep_token_id, [middle, middle + 1, lengths - 1]
    else:
        return
    ids[ids == mark] = spare
    for place in places:
        ids[range(len(ids)), place] = mark


def least_tokens(model: PreTrainedModel, task: Task) -> int:
    """The fewest tokens that a text can have. Funnel halves a text from block to block, and fails on shorter ones."""
    if model.config.model_type == "funnel":
        return 2 ** (len(model.config.block_sizes) - 1) + 1
    return 4 if _asks_with_separators(model, task) else 1


def _asks_with_separators(model: PreTrainedModel, task: Task) -> bool:
    return "start_logits" in task.outputs and model.config.model_type == "longformer"


def classifies_at_eos(model: PreTrainedModel, task: Task) -> bool:
    """Whether the model is an encoder-decoder whose classification head reads the last eos token of a text."""
    return task.answer.one_a_row and bool(model.config.is_encoder_decoder) and hasattr(model, "classification_head")
