"""What one layer of attention is, whatever the graph that it was found in, and the operators made from it.

`graph.standard` reads layers from the standard's `Attention` operator and `graph.softmax` from the small operators
around a softmax. Both write ONNX Runtime's `MultiHeadAttention`, through `fused` here, and every later pass (padding
removal, masks, the head alone, int8_kernels) asks `read` what a layer is, and does not look at the operator itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from untorch_export.graph.rewriting import CONTRIB, attribute, given, node

_KIND = "MultiHeadAttention"
# Places of its inputs; what comes behind them are keys and values of earlier tokens.
_QUERY, _KEY, _VALUE, _BIAS, _KEY_MASK, _ADDED = range(6)
_PAST = _ADDED + 1
# Attributes that say how masked keys are treated; kept as they are.
_KEPT = ("mask_filter_value",)


@dataclass(frozen=True)
class Attention:
    """softmax(scale * query @ key.T + added, masked) @ value, for each of `heads` heads: the names of its values.

    `query`, `key` and `value` have shape (batch, sequence, heads * size), as has `output`; the lengths of the
    sequences of queries and of keys may differ. `bias` (3 * heads * size) is added to queries, keys and values, in one
    row. `key_mask` (batch, keys), of integers, is 0 for keys that no query attends to; `added`, of a shape that can be
    broadcast to (batch, heads, queries, keys), is added to the scores. With `causal`, a query attends to no later key.
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
    def attributes(self) -> dict[str, float | int]:
        """The attributes that ONNX Runtime's operators of attention have in common."""
        named = {"num_heads": self.heads, "scale": self.scale, "mask_filter_value": self.filler}
        return {name: value for name, value in named.items() if value is not None}


def read(item: onnx.NodeProto) -> Attention | None:
    """The layer that a node is, or None: other operators, and attention that goes on from earlier tokens."""
    if item.op_type != _KIND or item.domain != CONTRIB or any(item.input[_PAST:]) or any(item.output[1:]):
        return None
    query, key, value, bias, key_mask, added = (given(item, place) for place in range(_PAST))
    if not (query and key and value):  # packed into one
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


def fused(layer: Attention) -> onnx.NodeProto:
    """A layer as one operator of ONNX Runtime's, for any device."""
    names = [*layer.parts, layer.bias, layer.key_mask, layer.added]
    while not names[-1]:
        names.pop()
    causal = {"unidirectional": 1} if layer.causal else {}
    return node(_KIND, names, layer.output, domain=CONTRIB, **layer.attributes, **causal)
