"""Which batches lose their padding, and by which indices."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from untorch.numerics import Tensor
from untorch.ort.cuda import packing
from untorch.ort.cuda.buckets import MAX_TOKENS

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 12))
MASKS = arrays.arrays(np.int64, SHAPES, elements=st.integers(0, 1)).filter(lambda mask: mask.any(axis=1).all())


def by_length(lengths):
    """A mask (rows, tokens), padded on the right."""
    return (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)


@given(MASKS)
def test_indices_of_any_mask(mask):
    found = packing.indices(mask)
    tokens, places, offset, starts = found.values()
    real = mask != 0
    assert list(found) == [tensor.name for tensor in packing.INDICES]
    assert {array.dtype for array in found.values()} == {np.dtype("int32")}
    assert tokens.tolist() == np.flatnonzero(mask).tolist()
    assert offset.shape == places.shape == mask.shape
    assert offset.ravel().tolist() == [*tokens, *np.flatnonzero(mask == 0)]
    assert starts.tolist() == [0, *np.cumsum(mask.sum(axis=1))]
    # There and back.
    values = np.random.default_rng(0).normal(size=(*mask.shape, 3))
    assert np.array_equal(values.reshape(-1, 3)[tokens][places][real], values[real])
    # Nothing of another row, not even in the place of padding.
    assert (starts[:-1, None] <= places).all()
    assert (places < starts[1:, None]).all()


def test_indices_by_hand():
    found = packing.indices(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]]))
    assert {name: array.tolist() for name, array in found.items()} == {
        "packing.tokens": [0, 1, 4, 6, 8],
        "packing.places": [[0, 1, 1], [2, 2, 2], [3, 3, 4]],
        "packing.offset": [[0, 1, 4], [6, 8, 2], [3, 5, 7]],
        "packing.starts": [0, 2, 3, 5],
    }


def test_choices_are_rows():
    mask = by_length([3, 1, 2, 3]).reshape(2, 2, 3)
    for one, other in zip(packing.indices(mask).values(), packing.indices(mask.reshape(4, 3)).values(), strict=True):
        assert np.array_equal(one, other)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=300))
def test_it_pays_only_where_there_is_padding(lengths):
    padded = max(lengths) * len(lengths)
    enough = padded - sum(lengths) >= packing.SHARE * padded
    assert packing.pays(by_length(lengths)) == (padded > MAX_TOKENS and enough)


def test_what_captured_graphs_do_is_left_to_them():
    mask = by_length([512, 256])
    assert mask.size == MAX_TOKENS
    assert not packing.pays(mask)
    assert packing.pays(np.concatenate([mask, mask]))


def test_a_row_must_begin_with_a_token():
    """A head may read the first place of a row, and without padding nothing is known of padding."""
    mask = by_length([512, *[32] * 15])
    assert packing.pays(mask)
    assert not packing.pays(mask[:, ::-1])  # padding on the left
    holes = mask.copy()
    holes[3, 5:20] = 0
    assert packing.pays(holes)
    holes[3, 0] = 0
    assert not packing.pays(holes)
    empty = mask.copy()
    empty[7] = 0
    assert not packing.pays(empty)
    assert packing.pays(mask.reshape(4, 4, -1))  # choices


def test_a_graph_is_fed_what_it_takes():
    mask = by_length([3, 1])
    given = {"input_ids": np.array([[5, 6, 7], [8, 0, 0]]), "attention_mask": mask}
    ids, masks, types = (
        Tensor(name, "int32", ("batch", "sequence")) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    assert list(packing.feeds([ids, masks], given)) == ["input_ids", "attention_mask"]
    fed = packing.feeds([ids, *packing.INDICES], given)
    assert list(fed) == ["input_ids", *packing.indices(mask)]
    assert {array.dtype for array in fed.values()} == {np.dtype("int32")}
    assert fed["packing.tokens"].tolist() == [0, 1, 2, 3]
    assert "attention_mask" in packing.feeds([masks, *packing.INDICES], given)
    assert list(packing.feeds([ids, types], given)) == ["input_ids"]
    assert list(packing.feeds([ids, *packing.INDICES], {"input_ids": given["input_ids"]})) == ["input_ids"]
