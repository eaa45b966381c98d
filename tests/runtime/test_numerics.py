from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sentence_transformers.sentence_transformer.modules import Pooling

from untorch import numerics, softmax

logits = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=1, max_dims=3, min_side=1), elements=st.floats(-1e4, 1e4, width=32)
)


@given(logits)
def test_softmax_is_torch_softmax(values):
    expected = torch.softmax(torch.from_numpy(values), -1).numpy()
    np.testing.assert_allclose(softmax(values), expected, atol=1e-6)
    assert softmax(values).dtype == np.float32


@given(logits)
def test_log_softmax_is_torch_log_softmax(values):
    expected = torch.log_softmax(torch.from_numpy(values), -1).numpy()
    np.testing.assert_allclose(numerics.log_softmax(values), expected, rtol=1e-5, atol=1e-4)


@given(logits)
def test_sigmoid_is_torch_sigmoid(values):
    np.testing.assert_allclose(numerics.sigmoid(values), torch.sigmoid(torch.from_numpy(values)).numpy(), atol=1e-6)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_a_row_has_the_values_of_torch_in_double_precision(row):
    values = torch.tensor(row, dtype=torch.float64)
    np.testing.assert_allclose(numerics.softmax_row(row), torch.softmax(values, -1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(numerics.sigmoid_row(row), torch.sigmoid(values).numpy(), rtol=1e-12, atol=1e-300)


def test_softmax_takes_lists_and_other_axes():
    np.testing.assert_allclose(softmax([[0.0, 0.0], [1.0, 1.0]], axis=0).sum(0), [1, 1])


@given(logits)
def test_normalize_is_torch_normalize(values):
    expected = torch.nn.functional.normalize(torch.from_numpy(values), dim=-1).numpy()
    np.testing.assert_allclose(numerics.normalize(values), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "mean_sqrt_len_tokens", "lasttoken"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_is_sentence_transformers_pooling(mode, side):
    if mode == "cls" and side == "left":
        pytest.skip("sentence-transformers takes padding for the first token there; untorch takes the first real one")
    generator = np.random.default_rng(0)
    states = generator.normal(size=(5, 7, 8)).astype(np.float32)
    lengths = np.array([7, 1, 3, 6, 2])[:, None]
    places = np.arange(7)[None, :]
    mask = (places < lengths if side == "right" else places >= 7 - lengths).astype(np.int64)
    reference = Pooling(8, pooling_mode=mode)
    expected = reference({"token_embeddings": torch.from_numpy(states), "attention_mask": torch.from_numpy(mask)})
    np.testing.assert_allclose(numerics.pool(states, mask, mode), expected["sentence_embedding"].numpy(), atol=1e-5)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="unknown pooling"):
        numerics.pool(np.ones((1, 1, 1)), np.ones((1, 1)), "median")
