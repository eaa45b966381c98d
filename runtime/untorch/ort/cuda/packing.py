"""Padding removal, the host's part: which batches gain by it, and the indices that a packed graph is fed.

A packed graph computes on one list of the tokens of all rows, without padding, between its embeddings and its head.
Which row and place each token has is plain arithmetic on the mask. It is done here, in tens of microseconds: ONNX
Runtime's operator for it, RemovePadding, walks over all tokens in a single thread of the GPU, and makes the host wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from untorch.numerics import Array, Tensor
from untorch.ort.cuda.buckets import MAX_TOKENS

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

# The least share of padding in a batch for which removing it pays. Batches up to MAX_TOKENS run from captured CUDA
# graphs instead, which cost no launches. Neither of the two limits has been measured.
SHARE = 0.05


def pays(mask: Array) -> bool:
    """Whether a batch with this mask (…, rows, tokens) should run without its padding.

    It should where there is enough padding, and where every row begins with a token: heads read the first position of a
    row, and a packed graph computes nothing for padding. Padding may be anywhere else in a row.
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
    """The arrays for a graph with these `inputs`, in its types, made of those that the model was `given`.

    A packed graph gets the indices, made of the mask, and the mask itself only if it reads it. Inputs for which there
    is no array are left out.
    """
    packed = any(tensor.name == TOKENS for tensor in inputs)
    made = indices(given[MASK]) if packed and MASK in given else {}
    found = {tensor: made.get(tensor.name, given.get(tensor.name)) for tensor in inputs}
    return {tensor.name: array.astype(tensor.dtype, copy=False) for tensor, array in found.items() if array is not None}
