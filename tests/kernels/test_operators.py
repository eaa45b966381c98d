"""The operators of untorch-kernels against numpy, and against graphs that say what is not so."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from helpers.own_operators import Linear, attention, gelu

untorch_kernels = pytest.importorskip("untorch_kernels", reason="untorch-kernels is not installed")
if untorch_kernels.missing():
    pytest.skip(f"this processor lacks {untorch_kernels.missing()}", allow_module_level=True)


def session(node, constants, inputs, threads=2):
    """A session of one node. `inputs` are names and element types; the axes are free."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("untorch", 1)]
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(untorch_kernels.library()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def linear(layer, threads=2, *, residual=False):
    """A session of a layer."""
    inputs = ["x", "residual"] if residual else ["x"]
    node = layer.node(residual="residual" if residual else "")
    return session(node, layer.constants, dict.fromkeys(inputs, TensorProto.FLOAT), threads)


LAYERS = st.builds(
    Linear,
    seed=st.integers(0, 2**32 - 1),
    in_features=st.integers(1, 200),
    out_features=st.integers(1, 200),
    outliers=st.integers(0, 9),
    gelu=st.booleans(),
    norm=st.booleans(),
)


@pytest.mark.fuzz
@given(LAYERS, st.booleans(), st.lists(st.integers(0, 9), min_size=0, max_size=3), st.integers(0, 2**32 - 1))
def test_linear_is_what_numpy_says(layer, residual, axes, seed):
    """For any sizes: rows that fill no block, columns that fill no tile, channels that fill no step."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(*axes, len(layer.integers))) * rng.uniform(0, 10)).astype(np.float32)
    feeds = {"x": x}
    if residual:
        feeds["residual"] = rng.normal(size=(*axes, layer.integers.shape[1])).astype(np.float32)
    [y] = linear(layer, residual=residual).run(None, feeds)
    expected = layer.compute(x, feeds.get("residual"))
    assert y.shape == expected.shape
    if x.size:
        np.testing.assert_allclose(y, expected, atol=2e-4 * max(1, np.abs(expected).max()), rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 16, 127, 128, 129, 300])
def test_rows_do_not_depend_on_their_number_or_the_threads(rows):
    layer = Linear(1, 768, 320, outliers=8, gelu=True)
    x = np.random.default_rng(rows).normal(size=(rows, 768)).astype(np.float32)
    [together] = linear(layer, threads=3).run(None, {"x": x})
    alone = linear(layer, threads=1)
    np.testing.assert_array_equal(together, np.concatenate([alone.run(None, {"x": row[None]})[0] for row in x]))
    np.testing.assert_allclose(together, layer.compute(x), atol=2e-4 * np.abs(together).max())


def test_rows_of_zeros_and_of_one_value_are_exact():
    layer = Linear(2, 96, 70, outliers=3)
    x = np.stack([np.zeros(96), np.full(96, 5.5), np.full(96, -5.5)]).astype(np.float32)
    np.testing.assert_allclose(linear(layer).run(None, {"x": x})[0], layer.compute(x), rtol=1e-4, atol=1e-3)


def test_gelu_is_the_exact_one():
    """Through a product that changes nothing: one channel, whose 256 levels are hit exactly."""
    layer = Linear(3, 1, 1, gelu=True)
    layer.integers[:], layer.scale[:], layer.bias[:] = 1, 1, 0
    x = np.linspace(-12, 12, 4001, dtype=np.float32)[:, None]
    [y] = linear(layer).run(None, {"x": x})
    np.testing.assert_allclose(y, gelu(x), atol=1e-4)


@cache
def attend(heads, masked=True, scale=0.0):
    inputs = {"packed": TensorProto.FLOAT} | ({"mask": TensorProto.INT32} if masked else {})
    node = helper.make_node("Attention", list(inputs), ["y"], domain="untorch", num_heads=heads, scale=scale)
    return session(node, {}, inputs)


@pytest.mark.fuzz
@given(
    st.integers(0, 3),
    st.integers(0, 140),
    st.integers(1, 4),
    st.sampled_from([16, 32, 48, 64, 80, 96, 128]),
    st.integers(0, 2**32 - 1),
)
def test_attention_is_what_numpy_says(batch, length, heads, width, seed):
    """Under any mask: holes, padding on either side, texts without a token."""
    rng = np.random.default_rng(seed)
    packed = rng.normal(size=(batch, length, 3 * heads * width)).astype(np.float32)
    mask = (rng.random((batch, length)) < rng.random((batch, 1))).astype(np.int32)
    [y] = attend(heads).run(None, {"packed": packed, "mask": mask})
    # bf16 keeps eight bits: 2^-9 of each factor.
    np.testing.assert_allclose(y, attention(packed, heads, mask), atol=0.03)
    [y] = attend(heads, masked=False).run(None, {"packed": packed})
    np.testing.assert_allclose(y, attention(packed, heads), atol=0.03)


def test_what_is_masked_is_not_seen():
    rng = np.random.default_rng(0)
    packed = rng.normal(size=(2, 40, 3 * 64)).astype(np.float32)
    mask = (rng.random((2, 40)) < 0.5).astype(np.int32)
    changed = np.where(mask[..., None] != 0, packed, np.float32(1e30))
    seen = mask != 0
    runs = [attend(2).run(None, {"packed": array, "mask": mask})[0][seen] for array in (packed, changed)]
    np.testing.assert_array_equal(*runs)


def test_padding_changes_nothing():
    packed = np.random.default_rng(1).normal(size=(1, 33, 3 * 64)).astype(np.float32)
    longer = np.concatenate([packed, packed, packed], axis=1)
    mask = (np.arange(99) < 33).astype(np.int32)[None]
    [short] = attend(2, masked=False).run(None, {"packed": packed})
    [long] = attend(2).run(None, {"packed": longer, "mask": mask})
    np.testing.assert_array_equal(short, long[:, :33])


def test_large_scores_do_not_overflow():
    packed = np.random.default_rng(2).normal(size=(1, 20, 3 * 32)).astype(np.float32) * 1000
    [y] = attend(1, masked=False, scale=1.0).run(None, {"packed": packed})
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y, attention(packed, 1, scale=1.0), atol=12, rtol=0.02)


def test_threads_share_a_session_and_leave():
    layer, calls = Linear(4, 256, 192, outliers=8, norm=True), 20
    shared, rng = linear(layer), np.random.default_rng(0)
    inputs = [rng.normal(size=(rows, 256)).astype(np.float32) for rows in range(1, 40)]
    expected = [shared.run(None, {"x": x})[0] for x in inputs]
    wrong = []

    def work(seed):
        for index in np.random.default_rng(seed).integers(0, len(inputs), calls):
            if not np.array_equal(shared.run(None, {"x": inputs[index]})[0], expected[index]):
                wrong.append(index)

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def failure(node, constants, feeds):
    """The message with which a graph is refused, when it is opened or when it runs."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    with pytest.raises(Exception, match=r"Linear|Attention|[Tt]ype|Attribute") as caught:
        session(node, constants, kinds).run(None, feeds)
    return str(caught.value)


X = np.ones((2, 40), np.float32)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("weight", np.zeros((1, 10, 64, 3), np.int8), "do not fit"),
        ("weight", np.zeros((0,), np.int8), "do not fit"),
        ("weight", np.zeros((1, 11, 64, 4), np.int8), "do not fit"),
        ("columns", np.zeros((4, 64), np.float32), "do not fit"),
        ("columns", np.zeros((6, 63), np.float32), "do not fit"),
        ("places", np.array([0, 1, 40], np.int64), "outside its matrix"),
        ("places", np.array([0, 1, -1], np.int64), "outside its matrix"),
        ("places", np.arange(2), "do not fit"),
        ("places", np.zeros(2000, np.int64), "do not fit"),
    ],
)
def test_constants_that_do_not_fit_are_refused(name, value, reason):
    layer = Linear(5, 40, 50, outliers=3)
    assert reason in failure(layer.node(), layer.constants | {name: value}, {"x": X})


@pytest.mark.parametrize(
    "changed",
    [{"in_features": 41 * 4}, {"in_features": 0}, {"in_features": -4}, {"out_features": 65}, {"out_features": 2**40},
     {"in_features": 2**62}, {"norm": 1}],
)  # fmt: skip
def test_attributes_that_do_not_fit_are_refused(changed):
    layer = Linear(6, 40, 50, outliers=3)
    assert "Linear" in failure(layer.node(**changed), layer.constants, {"x": X})


@pytest.mark.parametrize("shape", [(2, 39), (2, 41), ()])
def test_an_input_of_another_width_is_refused(shape):
    layer = Linear(7, 40, 50)
    assert "last axis" in failure(layer.node(), layer.constants, {"x": np.ones(shape, np.float32)})


def test_a_residual_of_another_shape_is_refused():
    layer = Linear(8, 40, 50)
    feeds = {"x": X, "residual": np.ones((1, 50), np.float32)}
    assert "residual" in failure(layer.node(residual="residual"), layer.constants, feeds)


def test_weights_that_are_no_constants_are_refused():
    layer = Linear(9, 40, 50)
    constants = layer.constants
    weight = constants.pop("weight")
    assert "do not fit" in failure(layer.node(), constants, {"x": X, "weight": weight})


@pytest.mark.parametrize(
    ("heads", "packed", "mask"),
    [
        (2, (1, 4, 100), (1, 4)),
        (2, (1, 4, 48), (1, 4)),
        (1, (1, 4, 3 * 144), (1, 4)),
        (2, (4, 192), (1, 4)),
        (2, (1, 4, 192), (1, 5)),
        (2, (1, 4, 192), (2, 4)),
        (2, (1, 4, 192), (4,)),
        (0, (1, 4, 192), (1, 4)),
        (-1, (1, 4, 192), (1, 4)),
        (2**40, (1, 4, 192), (1, 4)),
    ],
)
def test_attention_refuses_what_does_not_fit(heads, packed, mask):
    node = helper.make_node("Attention", ["packed", "mask"], ["y"], domain="untorch", num_heads=heads, scale=0.0)
    assert "Attention" in failure(node, {}, {"packed": np.ones(packed, np.float32), "mask": np.ones(mask, np.int32)})


def test_the_checker_of_onnx_takes_the_domain():
    layer = Linear(10, 8, 8)
    graph = helper.make_graph(
        [layer.node()],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 8])],
        [numpy_helper.from_array(array, name) for name, array in layer.constants.items()],
    )
    onnx.checker.check_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("untorch", 1)])
    )
