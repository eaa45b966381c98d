"""transformers' key-value caches, made of a graph's inputs and read back into its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from untorch_export.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

# A cache's keys and values (batch, heads, length, size), by the index of their layer.
Layers = dict[int, tuple["Tensor", "Tensor"]]


def empty() -> Cache:
    """A cache that has read nothing, and that keeps everything.

    It is made without the model's config, which would have layers with a sliding window throw away what has left the
    window, and count tokens in Python. The mask applies the window just as well.
    """
    from transformers.cache_utils import DynamicCache

    return DynamicCache()


def filled(layers: Layers) -> Cache:
    """A cache that holds `layers`. Layers between them that hold nothing stay empty."""
    from transformers.cache_utils import DynamicLayer

    cache = empty()
    for index in range(max(layers, default=-1) + 1):
        layer = DynamicLayer()
        if index in layers:
            layer.keys, layer.values = layers[index]
            layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
        cache.layers.append(layer)
    return cache


def read(cache: Any, model: PreTrainedModel) -> Layers:
    """The keys and values in a cache. Raises ExportError for one that keeps something else."""
    layers = getattr(cache, "layers", None)
    if not layers:
        raise ExportError(f"{type(model).__name__} cannot be exported to generate: it keeps no keys and values")
    found = {}
    for index, layer in enumerate(layers):
        if not hasattr(layer, "keys") or hasattr(layer, "recurrent_states") or hasattr(layer, "conv_states"):
            raise ExportError(
                f"{type(model).__name__} cannot be exported to generate: its layer {index} keeps a state of its own "
                f"({type(layer).__name__}), not keys and values"
            )
        if layer.keys is not None:
            found[index] = (layer.keys, layer.values)
    return found


def named(layers: Mapping[int, tuple[Any, Any]], prefix: str, part: str = "") -> dict[str, Any]:
    """Keys and values by their names in a graph: `prefix` is `past_key_values` or `present`."""
    return {
        f"{prefix}.{index}.{part}{kind}": tensor
        for index, pair in layers.items()
        for kind, tensor in zip(("key", "value"), pair, strict=True)
    }


def unnamed(tensors: Mapping[str, Tensor], part: str = "") -> Layers:
    """The keys and values among a graph's inputs: what `named` wrote."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        index, _, kind = rest.partition(".")
        if prefix == "past_key_values" and kind in (f"{part}key", f"{part}value"):
            found.setdefault(int(index), {})[kind.removeprefix(part)] = tensor
    return {index: (pair["key"], pair["value"]) for index, pair in found.items()}
