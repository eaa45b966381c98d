"""What needs a card. `python benchmarks/gpu` runs this file where there is one; elsewhere it is skipped."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from helpers.paths import BUNDLE_V1
from untorch import AutoModelForSequenceClassification, UntorchError, pipeline
from untorch.bundle.folder import Bundle
from untorch.ort import providers
from untorch.ort.cuda import libraries, packing
from untorch.ort.session import Session
from untorch.tools.diagnosis import PROBE, diagnose

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True, scope="module")
def card():
    try:
        return libraries.require("cuda:0")
    except UntorchError as error:
        pytest.skip(f"no card to test on: {error}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Two layers of BERT with fp32, fp16 and fp16_packed."""
    from benchmarks.gpu import models

    return models.build("bert-base", models.QUICK["bert-base"], tmp_path_factory.mktemp("bundles"))


def batch(rows, length, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, rows)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return {"input_ids": np.where(mask, rng.integers(1000, 30000, mask.shape), 0), "attention_mask": mask}


def loaded(bundle, precision, device="cuda"):
    return AutoModelForSequenceClassification.from_pretrained(bundle, device=device, precision=precision)


def test_every_node_that_works_runs_on_the_card(bundle):
    for precision in ("fp32", "fp16"):
        nodes = loaded(bundle, precision).session.nodes
        on_card = [node for node in nodes if node.provider == libraries.PROVIDER]
        assert {"MatMul"} <= {node.operator for node in on_card}
        providers.require_on_device(nodes, "cuda:0")


def test_a_second_card_that_is_not_there():
    with pytest.raises(UntorchError, match="there is no cuda:63"):
        Session(PROBE, device="cuda:63")


def test_auto_takes_the_card(bundle):
    found = pipeline(model=bundle, device="auto", precision="fp16")
    assert found.device == "cuda:0"
    assert found("a good day")


def test_doctor_shows_the_card_working(card):
    report = diagnose()
    assert report["devices"]["cuda:0"].startswith("works")
    assert libraries.PROVIDER in report["devices"]["cuda:0"]
    assert report["cuda"]["cuda:0"] == card.gpus[0]


def test_fp32_on_the_card_is_fp32_on_the_cpu(bundle):
    card, cpu = loaded(bundle, "fp32"), loaded(bundle, "fp32", "cpu")
    for rows, length in ((1, 5), (1, 16), (3, 40), (8, 128), (32, 200)):
        given = batch(rows, length)
        np.testing.assert_allclose(card(**given).logits, cpu(**given).logits, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "fp16_packed"])
def test_fp16_decides_as_fp32_does(bundle, precision):
    card, cpu = loaded(bundle, precision), loaded(bundle, "fp32", "cpu")
    for rows, length in ((1, 5), (3, 40), (64, 128)):
        given = batch(rows, length)
        np.testing.assert_allclose(card(**given).logits, cpu(**given).logits, atol=0.03)


def test_captured_graphs_give_what_plain_runs_give(bundle):
    """Shapes of one bucket and of several, in an order that replays stale buffers if any are left."""
    captured, plain = loaded(bundle, "fp16"), loaded(bundle, "fp16")
    plain.session.capture(0, {})
    assert captured.session.executor.buckets
    captured.warmup()
    for seed, (rows, length) in enumerate([(1, 16), (1, 9), (2, 16), (1, 3), (7, 100), (1, 512), (1, 16)] * 3):
        given = batch(rows, length, seed)
        np.testing.assert_allclose(captured(**given).logits, plain(**given).logits, atol=0.03)


def test_values_that_stay_on_the_card_are_not_replayed(bundle):
    """What generates runs so; on a session that captures, the first run would be replayed for every other."""
    model = loaded(bundle, "fp16")
    for seed, shape in enumerate([(1, 9), (2, 30), (1, 16), (1, 9)]):
        made = batch(*shape, seed)
        given = {
            tensor.name: made.get(tensor.name, np.zeros(shape)).astype(tensor.dtype) for tensor in model.session.inputs
        }
        _, [logits] = model.session.run_values(given, [], ["logits"])
        np.testing.assert_allclose(logits.numpy(), model(**given).logits, atol=0.03)


def test_many_texts_are_answered_as_each_alone(bundle):
    pipe = pipeline(model=bundle, device="cuda", precision="fp16")
    texts = [f"a {'good ' * (number % 30)}day" for number in range(1500)]
    one_by_one = [pipe(text) for text in texts[:60]]
    together = pipe(texts)
    assert len(together) == len(texts)
    for [alone], among in zip(one_by_one, together, strict=False):
        assert among["score"] == pytest.approx(alone["score"], abs=0.03)


def test_answers_are_the_callers_own(bundle):
    model = loaded(bundle, "fp16")
    first = model(**batch(1, 9)).logits
    kept = first.copy()
    for seed, shape in enumerate([(1, 9), (3, 40), (64, 128)], start=1):
        model(**batch(*shape, seed))
    assert np.array_equal(first, kept)


def test_threads_get_their_own_answers(bundle):
    model = loaded(bundle, "fp16")
    expected = {seed: model(**batch(1, 10 + seed, seed)).logits for seed in range(8)}
    wrong = []

    def work(seed):
        for _ in range(20):
            if not np.allclose(model(**batch(1, 10 + seed, seed)).logits, expected[seed], atol=0.03):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_mask_makes_a_row_that_is_no_number(bundle):
    model = loaded(bundle, "fp16")
    given = batch(4, 16)
    given["attention_mask"][1, :8] = 0
    given["attention_mask"][2, ::2] = 0
    given["attention_mask"][3] = 0
    assert np.isfinite(model(**given).logits).all()


def test_packing_is_used_where_it_pays_and_changes_nothing(bundle):
    packed, plain = loaded(bundle, "fp16_packed"), loaded(bundle, "fp16")
    given = batch(64, 256)
    assert packed.packed is not None
    assert packing.pays(given["attention_mask"])
    fed = packing.feeds(packed.packed.inputs, {"token_type_ids": np.zeros_like(given["input_ids"]), **given})
    (direct,) = packed.packed.run(fed, ["logits"])
    np.testing.assert_allclose(direct, plain(**given).logits, atol=0.03)
    np.testing.assert_allclose(packed(**given).logits, plain(**given).logits, atol=0.03)
    given["attention_mask"][::3, 1::5] = 0  # holes
    assert packing.pays(given["attention_mask"])
    np.testing.assert_allclose(packed(**given).logits, plain(**given).logits, atol=0.03)


def test_removing_padding_works_on_the_card_alone(bundle):
    """The indices come from the host, and what reads them must not go back there."""
    nodes = loaded(bundle, "fp16_packed").packed.nodes
    operators = {node.operator for node in nodes if node.provider == libraries.PROVIDER}
    assert {"Flatten", "Gather", "PackedMultiHeadAttention"} <= operators
    assert not {"RemovePadding", "RestorePadding"} & {node.operator for node in nodes}


def test_the_memory_of_captured_graphs_levels_off(bundle):
    import ctypes

    runtime = libraries._load(libraries._name("libcudart.so.{cuda}"))

    def free():
        values = ctypes.c_size_t(), ctypes.c_size_t()
        assert not runtime.cudaMemGetInfo(*(ctypes.byref(value) for value in values))
        return values[0].value

    model = loaded(bundle, "fp16")
    model.warmup()
    before = free()
    for seed in range(300):
        model(**batch(1 + seed % 8, 1 + seed % 128, seed))
    assert before - free() < 64 << 20


def test_a_bundle_of_the_first_format_runs(tmp_path):
    folder = shutil.copytree(BUNDLE_V1, tmp_path / "frozen")
    assert Bundle(folder).verified
    card, cpu = (pipeline(model=folder, device=device, precision="fp32") for device in ("cuda", "cpu"))
    texts = ["a good day", "a bad film", "so"]
    for ours, theirs in zip(card(texts), cpu(texts), strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
