"""What one layer of attention is, whatever the graph that it was found in, and the operators made from it.

`graph.standard` reads layers from the standard's `Attention` operator and `graph.softmax` from the small operators
around a softmax. Both write ONNX Runtime's `MultiHeadAttention`, through `fused` here, and every later pass (padding
removal, masks, the head alone, int8_kernels) asks `read` what a layer is, and does not look at the operator itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from untorch_export.graph.rewriting import CONTRIB, attribute, given, node

_KIND, _GROUPED = "MultiHeadAttention", "Attention"
# Places of MultiHeadAttention's inputs; what comes behind them are keys and values of earlier tokens.
_QUERY, _KEY, _VALUE, _BIAS, _KEY_MASK, _ADDED = range(6)
_PAST = _ADDED + 1
# Places of the standard operator's inputs.
_MASK, _STANDARD_PAST = 3, 4


@dataclass(frozen=True)
class Attention:
    """softmax(scale * query @ key.T + added, masked) @ value, head by head: the names of its values, and its numbers.

    `query` and `output` have shape (batch, queries, heads * size), `key` and `value` (batch, keys, kv_heads * size).
    Where `kv_heads` is less than `heads`, that many queries' heads in a row share one of keys and values.

    - `bias` (3 * heads * size,) is added to queries, keys and values, in that order;
    - `key_mask` (batch, keys), of integers, is 0 for keys that no query attends to;
    - `added`, a shape that can be broadcast to (batch, heads, queries, keys), is added to the scores;
    - with `causal`, a query attends to no later key.

    Names are empty for what a layer does not have. `scale` is None for 1 / sqrt(size). `filler` is what ONNX Runtime
    lowers the scores of masked keys by, None for its default.
    """

    query: str
    key: str
    value: str
    heads: int
    kv_heads: int
    output: str
    scale: float | None = None
    bias: str = ""
    key_mask: str = ""
    added: str = ""
    causal: bool = False
    filler: float | None = None

    @property
    def parts(self) -> tuple[str, str, str]:
        """Names of queries, keys and values."""
        return (self.query, self.key, self.value)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that ONNX Runtime's operators of attention have in common."""
        named = {"num_heads": self.heads, "scale": self.scale, "mask_filter_value": self.filler}
        return {name: value for name, value in named.items() if value is not None}


def fused(layer: Attention) -> onnx.NodeProto:
    """A layer as one operator.

    It is ONNX Runtime's MultiHeadAttention, or the standard's Attention where heads share keys and values, which the
    first cannot. Such a layer has no bias and no mask of keys; raises ValueError if it has.
    """
    if layer.kv_heads != layer.heads:
        return _grouped(layer)
    names = [*layer.parts, layer.bias, layer.key_mask, layer.added]
    while not names[-1]:
        names.pop()
    attributes = layer.attributes | ({"unidirectional": 1} if layer.causal else {})
    return node(_KIND, names, layer.output, domain=CONTRIB, **attributes)


def _grouped(layer: Attention) -> onnx.NodeProto:
    if layer.bias or layer.key_mask:
        raise ValueError("attention whose heads share keys takes no bias and no mask of keys")
    names = [*layer.parts, *filter(None, [layer.added])]
    attributes: dict[str, Any] = {"q_num_heads": layer.heads, "kv_num_heads": layer.kv_heads, "scale": layer.scale}
    # A None is left out.
    return node(_GROUPED, names, layer.output, is_causal=int(layer.causal), **attributes)


def read(item: onnx.NodeProto) -> Attention | None:
    """The layer that a fused node is, or None: other operators, and attention that goes on from earlier tokens."""
    if item.op_type == _KIND and item.domain == CONTRIB:
        return _read_fused(item)
    if item.op_type == _GROUPED and not item.domain and attribute(item, "q_num_heads", 0):
        return _read_grouped(item)
    return None


def _read_fused(item: onnx.NodeProto) -> Attention | None:
    query, key, value, bias, key_mask, added = (given(item, place) for place in range(_PAST))
    # Queries, keys and values may be packed into one.
    if not (query and key and value) or any(item.input[_PAST:]) or any(item.output[1:]):
        return None
    heads = attribute(item, "num_heads", 1)
    return Attention(
        query,
        key,
        value,
        heads=heads,
        kv_heads=heads,
        output=item.output[0],
        scale=attribute(item, "scale", None),
        bias=bias,
        key_mask=key_mask,
        added=added,
        causal=bool(attribute(item, "unidirectional", 0)),
        filler=attribute(item, "mask_filter_value", None),
    )


def _read_grouped(item: onnx.NodeProto) -> Attention | None:
    if any(item.input[_STANDARD_PAST:]) or any(item.output[1:]) or attribute(item, "softcap", 0.0):
        return None
    query, key, value = item.input[:_MASK]
    return Attention(
        query,
        key,
        value,
        heads=attribute(item, "q_num_heads", 1),
        kv_heads=attribute(item, "kv_num_heads", 1),
        output=item.output[0],
        scale=attribute(item, "scale", None),
        added=given(item, _MASK),
        causal=bool(attribute(item, "is_causal", 0)),
    )
