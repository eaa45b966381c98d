from __future__ import annotations

import numpy as np
import pytest
from benchmarks.agreement import compare

LABELS = [("POSITIVE", 0.9), ("NEGATIVE", 0.8), ("POSITIVE", 0.50003), ("NEGATIVE", 0.99)] * 25


def changed(change, rows=None):
    return [
        (label, score + change if rows is None or row in rows else score) for row, (label, score) in enumerate(LABELS)
    ]


def test_equal_answers_agree():
    found = compare(LABELS, LABELS, "fp32")
    assert found.passed
    assert found.largest == 0
    assert found.same == 1


def test_fp32_is_held_to_1e_4():
    assert compare(LABELS, changed(5e-5), "fp32").passed
    assert not compare(LABELS, changed(-2e-4, rows=[3]), "fp32").passed


def test_another_label_counts_as_the_distance_between_the_probabilities():
    given = [("NEGATIVE", 0.6), *LABELS[1:]]
    found = compare(LABELS, given, "int8")
    assert found.largest == pytest.approx(0.5)
    assert not compare(LABELS, given, "fp32").passed


def test_a_label_may_turn_where_both_are_as_likely():
    given = [*LABELS[:2], ("NEGATIVE", 0.50001), *LABELS[3:]]
    assert compare(LABELS, given, "fp32").passed


def test_reduced_precision_may_move_but_not_answer_otherwise():
    assert compare(LABELS, changed(-0.05), "int8").passed
    assert not compare(LABELS, changed(-0.4), "int8").passed
    turned = [("NEGATIVE" if label == "POSITIVE" else "POSITIVE", 0.51) for label, _ in LABELS]
    assert not compare(LABELS, turned, "bf16").passed


def test_a_label_that_the_reference_was_not_sure_of_may_turn():
    unsure = [("POSITIVE", 0.55)] * 20
    assert compare(LABELS + unsure, LABELS + [("NEGATIVE", 0.55)] * 20, "int8").passed


def test_not_a_number_agrees_with_nothing():
    for precision in ("fp32", "int8"):
        assert not compare(LABELS, [("POSITIVE", float("nan")), *LABELS[1:]], precision).passed


def test_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 8))
    assert compare(vectors, vectors + 5e-5, "fp32").passed
    assert not compare(vectors, vectors + 2e-4, "fp32").passed
    assert compare(vectors, vectors + 0.01, "int8").passed
    assert not compare(vectors, rng.normal(size=(20, 8)), "int8").passed
    assert not compare(vectors, vectors[:, :4], "fp32").passed


def test_a_missing_answer_is_an_error():
    with pytest.raises(ValueError, match="99 answers"):
        compare(LABELS, LABELS[:-1], "fp32")
