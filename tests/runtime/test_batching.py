from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import cases
from untorch import batching

lengths = st.lists(st.integers(1, 600), max_size=200)


TOKENS = 160


@cases(100)
@given(lengths, st.none() | st.integers(1, 50))
def test_every_row_is_in_exactly_one_batch(rows, batch_size):
    batches = batching.batches(rows, batch_size, TOKENS)
    assert sorted(np.concatenate([*batches, np.empty(0, int)]).tolist()) == list(range(len(rows)))


@cases(100)
@given(lengths)
def test_batches_stay_inside_the_token_budget(rows):
    for batch in batching.batches(rows, None, TOKENS):
        # One row may be longer than the budget by itself: it still has to run.
        assert len(batch) == 1 or len(batch) * max(rows[row] for row in batch) <= TOKENS


@cases(100)
@given(lengths)
def test_no_batch_could_have_taken_the_next_row(rows):
    batches = batching.batches(rows, None, TOKENS)
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * rows[following[0]] > TOKENS


@cases(100)
@given(lengths)
def test_a_batch_holds_neighbouring_lengths(rows):
    longest_so_far = 0
    for batch in batching.batches(rows, None, TOKENS):
        assert min(rows[row] for row in batch) >= longest_so_far
        longest_so_far = max(rows[row] for row in batch)


@cases(100)
@given(lengths, st.integers(1, 50))
def test_a_named_batch_size_is_kept(rows, batch_size):
    sizes = [len(batch) for batch in batching.batches(rows, batch_size, TOKENS)]
    assert all(size == batch_size for size in sizes[:-1])


@cases(100)
@given(st.lists(st.integers()), st.integers(1, 20))
def test_windows_lose_nothing(items, size):
    windows = list(batching.windows(iter(items), size))
    assert [item for window in windows for item in window] == items
    assert all(len(window) == size for window in windows[:-1])
