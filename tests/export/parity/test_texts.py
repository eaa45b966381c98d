"""How many texts a precision is compared on: fp32 alone on a batch of short ones and the longest, others on all."""

from __future__ import annotations

from collections import Counter

import pytest

from helpers.families import family
from untorch_export.checkpoint.load import load
from untorch_export.parity import evalset, forward
from untorch_export.parity.reference import Reference
from untorch_export.parity.texts import TEXTS

NAMES = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load(family(tmp_path_factory.mktemp("texts"), "Bert"))


@pytest.fixture(autouse=True)
def text_only(monkeypatch):
    """Leave out the random batches, which are the same for all."""
    monkeypatch.setattr(forward, "grid", lambda checkpoint, names: iter(()))


def measured(checkpoint, texts, *precisions, spoil=lambda inputs, outputs: None):
    """(what is found of each precision, how many batches of each size fp32 ran) for variants that are PyTorch."""
    sizes = Counter()
    with Reference(checkpoint) as reference:

        def fp32(inputs):
            sizes[len(inputs["input_ids"])] += 1
            outputs = {name: array.copy() for name, array in reference(inputs).items()}
            spoil(inputs, outputs)
            return outputs

        runs = {"fp32": fp32, **dict.fromkeys(precisions, reference)}
        return forward.measure(checkpoint, reference, runs, NAMES, texts, [], lambda done, total: None), sizes


def test_fp32_alone_is_asked_short_texts_in_a_batch_the_longest_and_some_by_themselves(checkpoint):
    found, sizes = measured(checkpoint, evalset.built_in(pairs=False))
    assert sizes == {forward.TOGETHER: 1, forward.LONG: 1, 1: forward.FEW}
    assert found["fp32"].verdict == "exact"
    answers = found["fp32"].report["answers"]
    assert answers["count"] == forward.TOGETHER + forward.LONG


@pytest.mark.parametrize("size", [32, 4, 1])
def test_one_wrong_element_is_found_in_each_of_these_batches(checkpoint, size):
    def spoil(inputs, outputs):
        if len(inputs["input_ids"]) == size:
            outputs["logits"][-1, 1] += 2e-4

    found, _ = measured(checkpoint, evalset.built_in(pairs=False), spoil=spoil)
    assert found["fp32"].verdict == "failed"


def test_beside_another_precision_all_texts_are_asked(checkpoint):
    found, sizes = measured(checkpoint, evalset.built_in(pairs=False), "int8")
    assert sizes == {32: 3, 4: 1, 1: forward.FEW}
    assert {item.report["answers"]["count"] for item in found.values()} == {len(TEXTS)}


def test_every_text_of_a_user_is_asked(checkpoint, tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"{text} again\n" for text in TEXTS))
    _, sizes = measured(checkpoint, evalset.read(tmp_path / "lines.txt", checkpoint))
    assert sizes == {32: 3, 4: 1, 1: forward.FEW}


def test_pairs_stay_pairs(checkpoint):
    whole = evalset.built_in(pairs=True)
    kept = evalset.shorter(whole, 3, 2)
    assert whole.pairs is not None
    assert set(zip(kept.texts, kept.pairs or (), strict=True)) <= set(zip(whole.texts, whole.pairs, strict=True))
    by_length = sorted(map(len, whole.texts))
    assert sorted(map(len, kept.texts)) == [*by_length[:3], *by_length[-2:]]
