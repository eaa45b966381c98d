"""Inputs under other names, and those that a model takes but must not be given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from untorch_export.trace.dynamo import samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Models whose types of tokens no `type_vocab_size` counts.
_TYPES_WITHOUT_A_SIZE = ("xlnet",)


def has_token_types(model: PreTrainedModel) -> bool:
    """Whether a text's types of tokens mean something to the model.

    GPT-2 and XLM take them too, and look them up among the words.
    """
    if not samples.accepts(model, "token_type_ids"):
        return False
    config = model.config.get_text_config()
    return config.model_type in _TYPES_WITHOUT_A_SIZE or (getattr(config, "type_vocab_size", 0) or 0) > 1


def has_mask(model: PreTrainedModel) -> bool:
    """Whether the model can be told what is padding. FNet mixes all positions, and cannot."""
    return samples.accepts(model, "attention_mask")


def arguments(model: PreTrainedModel, tensors: dict[str, Any]) -> dict[str, Any]:
    """The model's own arguments for the bundle's inputs."""
    if model.config.model_type == "xlnet" and "attention_mask" in tensors:
        # `1.0 - attention_mask`, by its other name; without memories of texts that came before.
        mask = tensors.pop("attention_mask")
        return {**tensors, "input_mask": (mask == 0).float(), "use_mems": False}
    if samples.accepts(model, "inputs") and not samples.accepts(model, "input_ids"):
        tensors["inputs"] = tensors.pop("input_ids")
    return tensors


def length(model: PreTrainedModel) -> int:
    """How long a sample is: longer than a window of attention that pads to whole windows."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or samples.SEQUENCE
    return min(samples.SEQUENCE, limit) if limit > 1 else samples.SEQUENCE
