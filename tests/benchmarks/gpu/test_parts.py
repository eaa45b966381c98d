"""The parts of `benchmarks/gpu`, on a CPU. The whole of it: `python benchmarks/gpu --device cpu --quick`."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from benchmarks.gpu import engines, masks, models, texts, unpack, work
from untorch import Bundle, pipeline


@pytest.mark.parametrize("name", ["distilbert-base", "bert-base"])
def test_operations_are_what_pytorch_counts(name):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = models.QUICK[name]
    model = models.torch_model(config)
    ids = torch.ones((3, 40), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, attention_mask=ids)
    assert work.operations(config, [40] * 3) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_the_heads_graph_does_less():
    config = models.CONFIGS["distilbert-base"]
    whole, head = work.operations(config, [128]), work.operations(config, [128], head_only=True)
    # Of the last of six layers, keys and values are all that is left for most tokens.
    assert 5 / 6 < head / whole < 0.9


def test_operations_do_not_count_padding():
    config = models.CONFIGS["bert-base"]
    assert work.operations(config, [10, 20]) == work.operations(config, [10]) + work.operations(config, [20])


def test_answers_that_differ_are_seen():
    expected = np.array([[2.0, 0.0], [0.0, 2.0], [0.001, 0.0]])
    assert texts.compare(expected, expected) == {"agreement": 1.0, "probability": 0.0}
    assert texts.compare(expected, expected[:, ::-1])["agreement"] == pytest.approx(1 / 3)  # the tie
    broken = expected.copy()
    broken[1] = np.nan
    assert texts.compare(expected, broken)["probability"] == 1.0


def test_random_batches_are_padded_on_the_right():
    ids, mask = texts.ids(8, 50, ragged=True)
    assert ids.shape == mask.shape == (8, 50)
    assert (ids[mask == 0] == 0).all()
    assert (np.diff(mask, axis=1) <= 0).all()


def test_samples_are_taken_after_a_warm_up():
    calls = []
    found = texts.samples(lambda: calls.append(1), quick=True)
    assert 5 <= len(found) == len(calls) - 3 <= 300


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return models.build("bert-base", models.QUICK["bert-base"], tmp_path_factory.mktemp("bundles"))


def test_a_bundle_is_built_from_a_configuration(bundle):
    found = Bundle(bundle)
    assert list(found.variants) == ["fp32", "fp16", "fp16_packed"]
    found.check()
    assert [row["label"] for row in pipeline(None, bundle, device="cpu", precision="fp32")(["a good day"])]


@pytest.mark.parametrize("form", masks.FORMS)
def test_every_form_of_the_mask_gives_the_same_answers(bundle, form):
    given = texts.ids(12, 32, ragged=form != "none")
    plain = engines.plain_session(bundle, "fp16", "cpu")
    reformed = engines.plain_session(bundle, masks.write(bundle, form), "cpu")
    np.testing.assert_allclose(reformed(*given), plain(*given), atol=0.02)


def test_a_packed_graph_is_fed_the_indices():
    seen = []
    ids, mask = texts.ids(3, 9, ragged=True)
    for names in (["input_ids", "token_type_ids", "packing.places", "packing.starts"], ["input_ids", "attention_mask"]):
        engines.padded(seen.append, names)(ids, mask)
        assert list(seen[-1]) == names
    assert np.array_equal(seen[0]["packing.starts"], [0, *np.cumsum(mask.sum(1))])
    assert not seen[0]["token_type_ids"].any()
    assert seen[1]["attention_mask"] is mask


def test_every_engine_decides_as_pytorch_does(bundle):
    config = models.QUICK["bert-base"]
    given = texts.ids(12, 30, ragged=True)
    expected = engines.reference(config)(*given)
    made = {
        "torch": engines.torch_engine(config, "cpu"),
        "session.run": engines.plain_session(bundle, "fp32", "cpu"),
        "untorch": engines.untorch_engine(bundle, "fp16", "cpu"),
    }
    for name, forward in made.items():
        found = texts.compare(expected, forward(*given))
        assert found["agreement"] == 1, name
        assert found["probability"] < 0.01, name
    assert expected.std(0) == pytest.approx(1, abs=0.7)  # answers differ from row to row


def test_an_archive_in_parts_is_unpacked(tmp_path):
    """As a wheel is cut up: folders are listed as empty files."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:xz") as archive:
        for name, data in (("package/", b""), ("package/module.py", b"x = 1\n"), ("package/inner/data", bytes(1000))):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    (tmp_path / "parts").mkdir()
    for number, start in enumerate(range(0, len(whole.getvalue()), 100)):
        (tmp_path / f"parts/archive.tar.xz.{number:02d}").write_bytes(whole.getvalue()[start : start + 100])
    unpack.unpack(tmp_path / "parts", tmp_path / "site")
    assert (tmp_path / "site/package/module.py").read_text() == "x = 1\n"
    assert (tmp_path / "site/package/inner/data").read_bytes() == bytes(1000)
