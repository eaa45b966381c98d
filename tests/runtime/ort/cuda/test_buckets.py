from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from untorch.numerics import Tensor
from untorch.ort.cuda import buckets
from untorch.ort.cuda.buckets import Bucket

LIMITS = st.one_of(st.none(), st.integers(1, 2048))
INPUTS = tuple(Tensor(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))


@given(LIMITS)
def test_buckets_are_few_and_within_the_limit(limit):
    found = buckets.sizes(limit)
    assert 0 < len(found) == len(set(found)) <= len(buckets.BATCHES) * (len(buckets.LENGTHS) + 1)
    assert all(0 < bucket.tokens <= buckets.MAX_TOKENS for bucket in found)
    assert limit is None or all(bucket.length <= limit for bucket in found)
    assert [bucket.tokens for bucket in found] == sorted(bucket.tokens for bucket in found)


def test_a_limit_of_nothing_captures_nothing():
    assert buckets.sizes(0) == ()


@given(LIMITS, st.integers(1, 2048))
def test_one_row_of_any_length_up_to_the_longest_has_a_bucket(limit, length):
    found = buckets.choose(1, length, buckets.sizes(limit))
    longest = min(limit or buckets.LENGTHS[-1], buckets.LENGTHS[-1])
    assert (found is not None) == (length <= longest)


@given(st.integers(1, 64), st.integers(1, 2048), LIMITS)
def test_the_chosen_bucket_holds_the_batch_and_no_smaller_one_does(batch, length, limit):
    found_sizes = buckets.sizes(limit)
    found = buckets.choose(batch, length, found_sizes)
    fitting = [bucket for bucket in found_sizes if bucket.batch >= batch and bucket.length >= length]
    if found is None:
        assert not fitting
    else:
        assert found in fitting
        assert all(found.tokens <= bucket.tokens for bucket in fitting)


@given(st.integers(1, 8), st.integers(1, 64), st.integers(0, 3), st.integers(0, 9), st.integers(0, 9))
def test_what_is_filled_in_comes_out_again(rows, length, more_rows, more_length, value):
    array = np.random.default_rng(rows).integers(10, 99, (rows, length))
    buffer = np.full((rows + more_rows, length + more_length), -1)
    buckets.fill(buffer, array, value)
    used = Bucket(rows, length)
    assert np.array_equal(buckets.cut(buffer, INPUTS[0].axes, INPUTS, used), array)
    assert (buffer == value).sum() == buffer.size - array.size


@given(st.integers(1, 8), st.integers(1, 64))
def test_shapes_of_outputs(rows, length):
    bucket = Bucket(rows, length)
    assert buckets.shape(("batch", 2), INPUTS, bucket) == (rows, 2)
    assert buckets.shape(("batch", "sequence", 768), INPUTS, bucket) == (rows, length, 768)
    assert buckets.shape(("batch", "other"), INPUTS, bucket) is None


@pytest.mark.parametrize(
    ("axes", "bounded"),
    [
        ([("batch", "sequence")] * 3, True),
        ([("batch_size", "sequence_length")], True),
        ([("batch", "sequence"), ("batch", 12, "past", 64)], False),
        ([("batch", "sequence"), ("batch", "encoder_sequence")], False),
        ([("batch", "choices", "sequence")], False),
        ([(1, 128)], False),
        ([("n", "n")], False),
        ([], False),
    ],
)
def test_only_rows_and_tokens_are_bounded(axes, bounded):
    assert buckets.is_bounded([Tensor(str(place), "int64", one) for place, one in enumerate(axes)]) == bounded


@given(st.integers(1, 600), st.none() | st.integers(1, 600))
def test_rows_grow_to_eights_where_the_model_takes_that(length, limit):
    padded = buckets.width(length, limit)
    assert length <= padded < length + 8
    if padded % 8:
        assert padded == length
        assert limit is not None
        assert -(-length // 8) * 8 > limit
