"""Padding removal, the host's part: which batches gain by it, and the indices that a packed graph is fed.

A packed graph has the tokens of all rows in one list between its embeddings and its head. Where each of them comes from
and goes back to is plain arithmetic on the mask. It is done here, in tens of microseconds: ONNX Runtime's operator
for it, RemovePadding, has a single thread of the card walk over all tokens, and the host wait for their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch.bundle.manifest import Tensor
from untorch.ort.cuda.buckets import MAX_TOKENS

Array = NDArray[Any]

MASK = "attention_mask"
TOKENS, PLACES, OFFSET, STARTS = "packing.tokens", "packing.places", "packing.offset", "packing.starts"

# What a packed graph takes besides the model's own inputs. Rows are those that attention sees: where a model takes
# several choices, each is a row.
INDICES = (
    Tensor(TOKENS, "int32", ("tokens",)),
    Tensor(PLACES, "int32", ("rows", "sequence")),
    Tensor(OFFSET, "int32", ("rows", "sequence")),
    Tensor(STARTS, "int32", ("rows_and_one",)),
)

# The share of a batch that must be padding. Batches up to MAX_TOKENS are left to captured CUDA graphs, whose launches
# are free. Neither of the two limits has been measured on a card.
SHARE = 0.05


def pays(mask: Array) -> bool:
    """Whether a batch with this mask (…, rows, tokens) is to run without its padding.

    It is where there is enough of it, and where every row begins with a token: heads read a row's first place, and
    what the model says of padding there is lost with it. Padding may be anywhere else.
    """
    padding = mask.size - np.count_nonzero(mask)
    return bool(mask.size > MAX_TOKENS and padding >= SHARE * mask.size and mask[..., 0].all())


def indices(mask: Array) -> dict[str, Array]:
    """The INDICES of a batch by name, all int32, from its mask (…, rows, tokens). Every row needs a token.

    Places are counted row after row, padding included; tokens are numbered in that order, padding left out.

    - `packing.tokens` (tokens,): the place of each token;
    - `packing.places` (rows, sequence): the number of the token at each place. Padding has that of the token before
      it in its row, or of its row's first, so that nothing of another row is ever in its place;
    - `packing.offset` (rows, sequence): the places of all tokens, then those of padding;
    - `packing.starts` (rows + 1,): the number of each row's first token, and how many tokens there are.
    """
    real = mask.reshape(-1, mask.shape[-1]) != 0
    counted = np.cumsum(real, dtype=np.int32).reshape(real.shape)
    starts = np.zeros(len(real) + 1, np.int32)
    starts[1:] = counted[:, -1]
    offset = np.concatenate([np.flatnonzero(real), np.flatnonzero(~real)]).astype(np.int32)
    return {
        TOKENS: offset[: starts[-1]],
        PLACES: np.maximum(counted - 1, starts[:-1, None]),
        OFFSET: offset.reshape(real.shape),
        STARTS: starts,
    }


def feeds(inputs: Sequence[Tensor], given: Mapping[str, Array]) -> dict[str, Array]:
    """What a graph with these `inputs` is fed, in its types, where the model is `given` these arrays.

    A packed graph gets the indices, made of the mask, and the mask itself only if it reads it. An input that nothing
    is given for is left out.
    """
    packed = any(tensor.name == TOKENS for tensor in inputs)
    made = indices(given[MASK]) if packed and MASK in given else {}
    found = {tensor: made.get(tensor.name, given.get(tensor.name)) for tensor in inputs}
    return {tensor.name: array.astype(tensor.dtype, copy=False) for tensor, array in found.items() if array is not None}
