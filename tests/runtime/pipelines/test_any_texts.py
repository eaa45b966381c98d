"""Any texts in any batches: an answer for each, in order, the one that the text gets alone."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from helpers.fuzzing import cases
from helpers.paths import BUNDLE_V1
from untorch import AutoModel, AutoModelForSequenceClassification, Batcher, UntorchError, pipeline

# How far an answer may depend on the other texts of its batch. int8 has a scale for each row, so what is left is the
# rounding of sums in another order, as in fp32.
NEIGHBOURS = {"fp32": 1e-5, "int8": 1e-5}

words = st.sampled_from(["hello", "world", "hate", "[SEP]", "[MASK]", "é", "世界", "🙂", "\0", "\u202e", "\n", "##s"])
sentences = st.lists(words | st.text(max_size=6), max_size=14).map(" ".join)
texts = sentences | st.sampled_from(["", " ", "hello " * 40]) | st.text(max_size=30)
batches = st.lists(texts, max_size=12)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def classify(request):
    return pipeline(None, BUNDLE_V1, precision=request.param, device="cpu", threads=2, truncation=True)


@pytest.fixture(scope="module")
def embed():
    return pipeline("sentence-embeddings", BUNDLE_V1, precision="fp32", device="cpu", threads=2, truncation=True)


def test_everything_that_is_no_text_is_refused(classify):
    for item in (None, 1, b"hello", ["hello"], {"text": None}, {"no": "text"}, "\ud800", [[]], object()):
        with pytest.raises(UntorchError):
            classify([item])


@cases(80)
@given(batch=batches, size=st.none() | st.integers(1, 8), shuffled=st.randoms(use_true_random=False))
def test_an_answer_depends_on_its_text_alone(classify, batch, size, shuffled):
    alone = [classify([text], top_k=None)[0] for text in batch]
    together = classify(batch, batch_size=size, top_k=None)
    order = list(range(len(batch)))
    shuffled.shuffle(order)
    moved = classify([batch[index] for index in order], top_k=None)
    assert len(together) == len(moved) == len(batch)
    tolerance = NEIGHBOURS[classify.precision]
    for one, other in [*zip(alone, together, strict=True), *zip((alone[i] for i in order), moved, strict=True)]:
        assert scores(other) == pytest.approx(scores(one), abs=tolerance)


def scores(answer):
    return {item["label"]: item["score"] for item in answer}


@cases(60)
@given(batch=st.lists(texts, min_size=1, max_size=12))
def test_a_vector_depends_on_its_text_alone(embed, batch):
    together = embed(batch)
    assert together.shape == (len(batch), 32)
    for text, vector in zip(batch, together, strict=True):
        np.testing.assert_allclose(embed(text), vector, atol=1e-5)


@cases(40)
@given(batch=st.lists(texts, min_size=1, max_size=12), limit=st.integers(1, 200), queue=st.integers(1, 20))
def test_a_batcher_gives_each_caller_its_own(classify, batch, limit, queue):
    expected = classify(batch)
    with Batcher(classify, max_tokens=limit, max_queue=queue) as batcher, ThreadPoolExecutor(8) as callers:
        for [answer], other in zip(callers.map(batcher, batch), expected, strict=True):
            assert answer["score"] == pytest.approx(other["score"], abs=NEIGHBOURS[classify.precision])


@cases(300)
@given(
    ids=st.lists(st.lists(st.integers(-2, 400), max_size=6), max_size=4),
    mask=st.none() | st.lists(st.lists(st.integers(-1, 2), max_size=6), max_size=4),
)
@pytest.mark.filterwarnings("ignore:no attention_mask was given")
def test_any_ids(model, ids, mask):
    try:
        logits = model(ids, mask).logits
    except UntorchError:
        return
    assert logits.shape == (len(ids), 2)
    assert np.isfinite(logits).all()


@pytest.fixture(scope="module")
def model():
    return AutoModelForSequenceClassification.from_pretrained(BUNDLE_V1, precision="fp32", device="cpu", threads=1)


def graph_that_gives(shape):
    """A graph that takes ids and gives an output of this shape, whatever it declares. None: as long as the input."""
    ids = helper.make_node("Shape", ["input_ids"], ["asked"])
    sizes = []
    nodes = [ids]
    for axis, size in enumerate(shape):
        if size is None:
            nodes.append(helper.make_node("Gather", ["asked", f"axis{axis}"], [f"size{axis}"]))
        else:
            nodes.append(helper.make_node("Identity", [f"axis{axis}"], [f"size{axis}"]))
        number = min(axis, 1) if size is None else size
        sizes.append(numpy_helper.from_array(np.array([number], np.int64), f"axis{axis}"))
    nodes.append(helper.make_node("Concat", [f"size{axis}" for axis in range(len(shape))], ["shape"], axis=0))
    nodes.append(helper.make_node("ConstantOfShape", ["shape"], ["last_hidden_state"]))
    names = ["batch", "sequence", "hidden"]
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, names)],
        sizes,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@cases(60)
@given(
    shape=st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=4),
    rows=st.integers(1, 4),
    length=st.integers(1, 5),
)
def test_any_shape_of_output(tmp_path_factory, shape, rows, length):
    """Outputs that are not a state for each token are refused; they would go to the wrong texts."""
    folder = tmp_path_factory.getbasetemp() / "shapes"
    folder.mkdir(exist_ok=True)
    onnx.save(graph_that_gives(shape), folder / "model.onnx")
    try:
        model = AutoModel.from_pretrained(folder, device="cpu", threads=1)
        states = model(np.ones((rows, length), np.int64)).last_hidden_state
    except UntorchError:
        given = [(rows, length)[min(axis, 1)] if size is None else size for axis, size in enumerate(shape)]
        assert len(given) != 3 or given[:2] != [rows, length]
        return
    assert states.shape[:2] == (rows, length)


def test_random_lengths_in_a_stream(classify):
    rng = random.Random(0)
    lines = [" ".join(rng.choices(["hello", "world", "hate"], k=rng.randint(0, 30))) for _ in range(2500)]
    streamed = list(classify(line for line in lines))
    assert [answer["label"] for answer in streamed] == [answer["label"] for answer in classify(lines)]
