"""`--eval`: what each task's file looks like, what is measured by it, and that a lost figure refuses a variant."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.architectures import ARCHITECTURES, checkpoint
from helpers.checkpoints import small_bert
from untorch_export.errors import ExportError
from untorch_export.export import export
from untorch_export.parity import gates, quality

BERT = next(architecture for architecture in ARCHITECTURES if architecture.prefix == "Bert")
GPT2 = next(architecture for architecture in ARCHITECTURES if architecture.prefix == "GPT2")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LINES = "this movie is great\nthat film was awful\n\nI love it\n"
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "this movie is great and that film was awful",
                    "qas": [{"question": "what is great?", "answers": [{"text": "this movie"}]}],
                }
            ]
        }
    ]
}
# task → (a labelled file, the measure that it gives, how many inputs it has)
LABELLED = {
    "token-classification": ("hello O\npeople B-LOC\n\nthis B-LOC\ncity I-LOC\n", "entity F1", 2),
    "question-answering": (json.dumps(SQUAD), "exact match", 1),
    "multiple-choice": ("label\ttext\ta\tb\n0\thello\tgood\tbad\n1\tpeople\tcity\tmovie\n", "accuracy", 2),
    "sentence-embeddings": (
        "label\tone\tother\n5\ta good movie\ta great movie\n1\thello\tcity\n0\tfilm\tpeople\n",
        "Spearman",
        3,
    ),
    "text-ranking": (
        "label\tquery\tpassage\n1\tgood movie\tgreat film\n0\tcity\tawful\n2\tlove\thate\n",
        "Spearman",
        3,
    ),
}


@pytest.mark.parametrize("task", LABELLED)
def test_labels_of_every_task_are_measured_by_its_own_figure(task, tmp_path):
    text, measure, count = LABELLED[task]
    (tmp_path / "dev").write_text(text)
    source = checkpoint(tmp_path / "checkpoint", BERT, task)
    arguments = {"task": task, "precisions": ["fp32", "int8"], "keep_failed": True}
    manifest = export(source, tmp_path / "bundle", eval_file=tmp_path / "dev", **arguments)
    for variant in manifest.variants.values():
        assert variant.parity["quality"]["measure"] == measure
        assert -100 <= variant.parity["quality"]["points"] <= 100
    int8 = manifest.variants["int8"].parity
    assert int8["gate"]["rule"] == f"{measure} lost, points"
    assert int8["gate"]["limit"] == gates.POINTS
    assert int8["answers"]["count"] == count
    assert int8["answers"]["source"] == "dev"


@pytest.mark.parametrize("task", ["fill-mask", "feature-extraction", "text-generation", "token-classification"])
def test_lines_without_labels_are_what_answers_are_compared_on(task, tmp_path):
    (tmp_path / "lines.txt").write_text(LINES)
    source = checkpoint(tmp_path / "checkpoint", GPT2 if task == "text-generation" else BERT, task)
    manifest = export(source, tmp_path / "bundle", task=task, precisions=["fp32"], eval_file=tmp_path / "lines.txt")
    answers = manifest.variants["fp32"].parity["answers"]
    if task == "text-generation":
        assert math.isclose(*answers["perplexity"].values(), rel_tol=1e-3)
        assert answers["perplexity"]["pytorch"] > 1
    else:
        assert (answers["source"], answers["count"]) == ("lines.txt", 3)


def test_several_labels_a_text_and_numbers(tmp_path):
    (tmp_path / "several.tsv").write_text("label\ttext\nNEGATIVE,POSITIVE\thello\n\tcity\n")
    source = small_bert(tmp_path / "several", problem_type="multi_label_classification")
    manifest = export(source, tmp_path / "a", precisions=["fp32"], eval_file=tmp_path / "several.tsv")
    assert manifest.variants["fp32"].parity["quality"]["measure"] == "label F1"
    (tmp_path / "number.tsv").write_text("label\ttext\n0.5\thello\n1\tcity\n7\tpeople love it\n")
    source = small_bert(tmp_path / "number", id2label={0: "score"}, label2id={"score": 0})
    manifest = export(source, tmp_path / "b", precisions=["fp32"], eval_file=tmp_path / "number.tsv")
    assert manifest.variants["fp32"].parity["quality"]["measure"] == "Spearman"
    (tmp_path / "word.tsv").write_text("label\ttext\nfine\thello\n")
    with pytest.raises(ExportError, match="line 2: label 'fine' is no number"):
        export(source, tmp_path / "c", precisions=["fp32"], eval_file=tmp_path / "word.tsv")


def test_a_figure_that_is_lost_fails_the_variant():
    assert gates.judge_points("int8", "entity F1", 0.6)[0] == "failed"
    assert gates.judge_points("int8", "entity F1", 0.5)[0] == "close"
    assert gates.judge_points("int8", "entity F1", -3)[0] == "close"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_spearman_is_scipys(pairs):
    got, right = map(np.array, zip(*pairs, strict=True))
    if len(set(got)) < 2 or len(set(right)) < 2:
        return
    measure = quality.similarity(["a"], ["b"], [0])
    assert measure.name == "Spearman"
    assert quality._spearman(got, right) == pytest.approx(100 * stats.spearmanr(got, right).statistic)


def test_an_entity_counts_only_whole():
    def tokens(*spans):
        return [{"start": start, "entity": tag} for start, tag in spans]

    measure = quality.entities([["New", "York", "won"]], [["B-LOC", "I-LOC", "O"]])
    right = tokens((0, "B-LOC"), (4, "I-LOC"), (6, "O"), (9, "O"))
    assert measure.score([right]) == 100
    assert measure.score([tokens((0, "B-LOC"), (4, "O"), (9, "O"))]) == 0
    assert measure.score([tokens((0, "B-LOC"), (4, "I-LOC"), (9, "B-LOC"))]) == pytest.approx(200 / 3)
    assert measure.score([tokens((0, "B-LOC"))]) == 0  # the rest was cut off


def test_answers_match_without_case_articles_and_punctuation():
    measure = quality.spans(["?"], ["The end."], [["end", "finish"]])
    assert measure.score([{"answer": "The End."}]) == 100
    assert measure.score([{"answer": "the ends"}]) == 0
