"""Encoder-decoders that generate: two graphs. The encoder also gives the keys and values that the decoder looks at.

The decoder takes both caches from the first step on, its own being empty then, so that neither graph has a branch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch_export.answers import HIDDEN
from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError
from untorch_export.graph import files
from untorch_export.graph.ties import share_transposed
from untorch_export.trace.dynamo import caches, patches, samples
from untorch_export.trace.dynamo.decoder import PAST, PAST_CACHE, PRESENT_CACHE, SEQUENCE, TEXT
from untorch_export.trace.dynamo.program import Axes, convert

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto
    from torch import Tensor
    from transformers import PreTrainedModel

_OWN, _CROSS = "decoder.", "encoder."
_SOURCE: Axes = {0: "batch", 1: "encoder_sequence"}
_CROSS_CACHE: Axes = {0: "batch", 2: "encoder_sequence"}


def trace(model: PreTrainedModel, task: Task, folder: Path) -> dict[str, Path]:
    """Write `encoder_model.onnx` and `decoder_model.onnx`. Weights that both have lie in a file beside them, once."""
    import torch

    length = patches.length(model)
    ids = samples.ids(model, samples.BATCH, length)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    with patches.applied(model, task):
        with torch.no_grad():
            states, own, cross = _read(model, ids, mask, samples.ids(model, samples.BATCH, PAST, seed=1))
        encoder = _encoder(model, {"input_ids": ids, "attention_mask": mask}, cross)
        decoder = _decoder(model, mask, own, cross, states.shape[-1])
    decoder = share_transposed(decoder)
    shared = files.save_shared([encoder, decoder], folder / "model_shared.onnx_data")
    paths = {"encoder": folder / "encoder_model.onnx", "decoder": folder / "decoder_model.onnx"}
    for graph, path in zip((encoder, decoder), paths.values(), strict=True):
        files.save(graph, path, elsewhere=shared)
    return paths


def _encoder(model: PreTrainedModel, sample: dict[str, Any], cross: caches.Layers) -> ModelProto:
    from torch import nn

    class Encoder(nn.Module):
        """Reads a text, and has the decoder look at it once. Nobody reads its answer, so the graph leaves it out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            ids, mask = tensors
            states, _, cross = _read(model, ids, mask, ids.new_zeros(ids.shape[0], 1))
            return (states, *caches.named(cross, "present", _CROSS).values())

    outputs = {HIDDEN: _SOURCE, **dict.fromkeys(caches.named(cross, "present", _CROSS), _CROSS_CACHE)}
    return convert(Encoder().eval(), sample, dict.fromkeys(sample, _SOURCE), outputs)


def _decoder(model: PreTrainedModel, mask: Tensor, own: caches.Layers, cross: caches.Layers, hidden: int) -> ModelProto:
    past, looked_at = caches.named(own, "past_key_values", _OWN), caches.named(cross, "past_key_values", _CROSS)
    text = {"input_ids": samples.ids(model, samples.BATCH, SEQUENCE, seed=2), "encoder_attention_mask": mask}
    sample = {**text, **past, **looked_at}
    axes = {"input_ids": TEXT, "encoder_attention_mask": _SOURCE}
    axes |= {**dict.fromkeys(past, PAST_CACHE), **dict.fromkeys(looked_at, _CROSS_CACHE)}
    outputs = {"logits": TEXT, **dict.fromkeys(caches.named(own, "present", _OWN), PRESENT_CACHE)}
    return convert(_decoder_module(model, list(sample), hidden), sample, axes, outputs)


def _decoder_module(model: PreTrainedModel, names: list[str], hidden: int) -> torch.nn.Module:
    from torch import nn
    from transformers.cache_utils import EncoderDecoderCache

    class Decoder(nn.Module):
        """The decoder, called with tensors in the order of `names`, both caches among them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            given = dict(zip(names, tensors, strict=True))
            own, cross = caches.unnamed(given, _OWN), caches.unnamed(given, _CROSS)
            mask = given["encoder_attention_mask"]
            # Their keys and values are in the cache; of the states themselves only the shape is read.
            states = next(iter(cross.values()))[0].new_zeros(*mask.shape, hidden)
            outputs = model(
                encoder_outputs=encoded(states),
                attention_mask=mask,
                decoder_input_ids=given["input_ids"],
                past_key_values=EncoderDecoderCache(caches.filled(own), caches.filled(cross)),
                use_cache=True,
                return_dict=True,
            )
            present = caches.read(outputs.past_key_values.self_attention_cache, model)
            return (outputs.logits, *caches.named(present, "present", _OWN).values())

    return Decoder().eval()


def _read(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, decoder_ids: Tensor
) -> tuple[Tensor, caches.Layers, caches.Layers]:
    """The encoder's states for a text, and the decoder's two caches after the first tokens of an answer."""
    from transformers.cache_utils import EncoderDecoderCache

    states = model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
    outputs = model(
        encoder_outputs=encoded(states),
        attention_mask=mask,
        decoder_input_ids=decoder_ids,
        past_key_values=EncoderDecoderCache(caches.empty(), caches.empty()),
        use_cache=True,
        return_dict=True,
    )
    cache = outputs.past_key_values
    if not hasattr(cache, "cross_attention_cache"):
        raise ExportError(f"{type(model).__name__} cannot be exported to generate: it keeps no keys of the source text")
    own, cross = caches.read(cache.self_attention_cache, model), caches.read(cache.cross_attention_cache, model)
    return states, own, cross


def encoded(states: Tensor) -> Any:
    """An encoder's output, as the decoder takes it; mixtures of experts look into it for what their routers chose."""
    from transformers.modeling_outputs import BaseModelOutput

    output = BaseModelOutput(states)
    output.router_logits = output.router_probs = None
    return output
