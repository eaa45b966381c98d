"""Lengths at which a model computes something else: a window is left behind, or other frequencies are taken.

A graph is traced at one length. Where Python chooses by a text's length, the graph keeps what was chosen then, so
every comparison looks on both sides of each of these lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# Past this many tokens nothing is compared, and a model's limit is the switch.
FARTHEST = 4096

# Parts of a config that say how attention is computed; an error of the tracer's is explained by them.
_KINDS = ("encoder_attention_type", "attention_type", "position_embedding_type")


class Switch(NamedTuple):
    """The longest text before a switch, in tokens, and the keys of the config that it comes from."""

    length: int
    named: str


def switches(config: Mapping[str, Any]) -> list[Switch]:
    """The switches that a config names, the shortest first, each length once."""
    found = {switch.length: switch for switch in reversed(list(_all(config))) if switch.length > 0}
    return [found[length] for length in sorted(found)]


def _all(config: Mapping[str, Any]) -> Iterator[Switch]:
    rope = _rope(config)
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    if kind in ("longrope", "dynamic", "su", "yarn"):
        original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        if kind == "dynamic":
            original = config.get("max_position_embeddings")
        if isinstance(original, int):
            yield Switch(original, f"rope type {kind}")
    for key in ("sliding_window", "local_attention"):
        window = config.get(key)
        off = config.get("use_sliding_window") is False and key == "sliding_window"
        if isinstance(window, int) and not off:
            # ModernBERT's window reaches half as far to either side.
            yield Switch(window // 2 if key == "local_attention" else window, key)
    if config.get("attention_type") == "block_sparse":
        block, random = int(config.get("block_size", 64)), int(config.get("num_random_blocks", 3))
        yield Switch((5 + 2 * random) * block, "attention_type block_sparse")
    if config.get("encoder_attention_type") in ("local", "transient-global"):
        yield Switch(int(config.get("local_radius", 127)), f"encoder_attention_type {config['encoder_attention_type']}")
    window = config.get("attention_window")
    if window:
        yield Switch(max(window) if isinstance(window, (list, tuple)) else int(window), "attention_window")


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if isinstance(value, Mapping):
            return value
    return {}


def described(config: Mapping[str, Any]) -> str:
    """How the model attends, in words for an error: "rope type longrope, encoder_attention_type transient-global"."""
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type"))
    parts = [f"rope type {kind}"] if kind not in (None, "default") else []
    parts += [f"{key} {config[key]}" for key in _KINDS if config.get(key) not in (None, "absolute", "original_full")]
    return ", ".join(parts)
