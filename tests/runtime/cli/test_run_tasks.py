"""`untorch run` for the tasks whose inputs or answers are more than one text and one label."""

from __future__ import annotations

import csv
import json

import pytest

from helpers.architectures import ARCHITECTURES, SEQ2SEQ, checkpoint
from helpers.checkpoints import small_bert
from untorch import pipeline
from untorch.cli import main
from untorch.cli.texts import flat


@pytest.fixture(scope="module")
def bundles(make_bundle):
    nli = {"id2label": {0: "no", 1: "entailment"}, "label2id": {"no": 0, "entailment": 1}}
    one = {"id2label": {0: "RELEVANT"}, "label2id": {"RELEVANT": 0}}
    made = {
        "token-classification": ("BertForTokenClassification", {}),
        "question-answering": ("BertForQuestionAnswering", {}),
        "fill-mask": ("BertForMaskedLM", {}),
        "zero-shot-classification": ("BertForSequenceClassification", nli),
        "text-ranking": ("BertForSequenceClassification", one),
        "multiple-choice": ("BertForMultipleChoice", {}),
    }

    def get(task):
        head, config = made[task]

        def small(folder):
            # Narrower than its own weights, whose sums come near the limit of fp32's parity with some vocabularies.
            return small_bert(folder, head, initializer_range=0.3, **config)

        return make_bundle(f"run-{task}", small, precisions=["fp32"], task=task)[1]

    return get


@pytest.fixture
def run(bundles, capsys):
    def rows(task, *words):
        assert main(["run", str(bundles(task)), "--json", *map(str, words)]) == 0, capsys.readouterr().err
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return rows


def test_words_of_the_command_line(run, bundles):
    assert run("question-answering", "Where?", "hello city")[0].keys() == {
        *("question", "context", "score", "start", "end", "answer")
    }
    (row,) = run("text-ranking", "good?", "this movie", "that film", "--set", "top_k=1")
    assert (row["query"], row["passages"], len(row["result"])) == ("good?", ["this movie", "that film"], 1)
    (row,) = run("multiple-choice", "this movie", "is good", "is bad")
    assert sorted(choice["text"] for choice in row["result"]) == ["is bad", "is good"]
    rows = run("fill-mask", "hello [MASK]", "a [MASK]", "--set", "top_k=2")
    assert rows[1]["result"] == pipeline(None, bundles("fill-mask"))("a [MASK]", top_k=2)
    (row,) = run("token-classification", "hello city", "--set", "aggregation_strategy=first")
    assert row["result"] == pipeline("ner", bundles("token-classification"))("hello city", aggregation_strategy="first")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("task", "prefix"),
    [
        ("feature-extraction", "Bert"),
        ("sentence-embeddings", "Bert"),
        ("text-generation", "GPT2"),
        *((task, "T5") for task in SEQ2SEQ),
    ],
)
def test_texts_in_answers_out(make_bundle, capsys, task, prefix):
    (architecture,) = (item for item in ARCHITECTURES if item.prefix == prefix)
    _, bundle = make_bundle(
        f"run-{task}", lambda folder: checkpoint(folder, architecture, task), precisions=["fp32"], task=task
    )
    arguments = {"max_new_tokens": 4, "do_sample": False} if task in ("text-generation", *SEQ2SEQ) else {}
    texts = ["hello city", "a good movie"]
    settings = [f"--set={name}={json.dumps(value)}" for name, value in arguments.items()]
    assert main(["run", str(bundle), *texts, "--json", *settings]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    answers = pipeline(task, bundle).each(texts, **arguments)
    assert rows == [flat(text, answer) for text, answer in zip(texts, answers, strict=True)]


def test_pairs_from_a_file(make_bundle, capsys, tmp_path):
    _, bundle = make_bundle("run-pairs", small_bert, precisions=["fp32"])
    source = tmp_path / "in.jsonl"
    pairs = [{"text": "hello", "text_pair": "city"}, {"text": "a good", "text_pair": "movie"}]
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert main(["run", str(bundle), "--json", "--input", str(source)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{**pair, **answer} for pair, answer in zip(pairs, pipeline(None, bundle)(pairs), strict=True)]


def test_labels_for_all_texts_or_for_each(run, tmp_path):
    (row,) = run("zero-shot-classification", "hello city", "--set", "candidate_labels=good, bad")
    assert sorted(row["labels"]) == ["bad", "good"]
    (row,) = run("zero-shot-classification", "hello", "--set", 'candidate_labels=["a, b", "c"]')
    assert sorted(row["labels"]) == ["a, b", "c"]
    source = tmp_path / "in.csv"
    source.write_text('text,candidate_labels\nhello,"good, bad"\nworld,"a, b, c"\n')
    assert [len(row["labels"]) for row in run("zero-shot-classification", "--input", source)] == [2, 3]


def test_questions_from_files(run, bundles, tmp_path):
    items = [{"question": "Who?", "context": "hello people"}, {"question": "What?", "context": "a good movie"}]
    expected = pipeline(None, bundles("question-answering"))(items)
    lines, table = tmp_path / "in.jsonl", tmp_path / "in.csv"
    lines.write_text("".join(json.dumps({"id": 7, **item}) + "\n" for item in items))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["context", "id", "question"], *([i["context"], 7, i["question"]] for i in items)])
    for source in (lines, table):
        rows = run("question-answering", "--input", source)
        assert rows == [{**item, **answer} for item, answer in zip(items, expected, strict=True)]


def test_for_people(bundles, capsys, tmp_path):
    target = tmp_path / "out.txt"
    assert main(["run", str(bundles("text-ranking")), "good?", "this", "that", "--output", str(target)]) == 0
    first, second = target.read_text().strip().removesuffix("  good?").split("; ")
    assert float(first.split()[1]) >= float(second.split()[1])
    assert main(["run", str(bundles("question-answering")), "Who?", "hello people"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("  Who?")


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("question-answering", ["Who?"], "a question and a context"),
        ("zero-shot-classification", ["hello"], "candidate_labels are missing"),
        ("fill-mask", ["hello"], "line 1: text 0 has no mask"),
        ("fill-mask", ["a [MASK]", "--set", "top_k"], "NAME=VALUE"),
        ("fill-mask", ["a [MASK]", "--set", "colour=1"], "no argument colour"),
    ],
)
def test_what_cannot_be_done_is_said(bundles, capsys, task, words, message):
    assert main(["run", str(bundles(task)), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_the_tasks_fields_is_named(bundles, capsys, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "hello"}\n')
    assert main(["run", str(bundles("question-answering")), "--input", str(source)]) == 2
    assert 'in.jsonl, line 1: the object has no field "question"' in capsys.readouterr().err
