from __future__ import annotations

import csv
import io
import json
import re
import sys

import pytest

from untorch import pipeline
from untorch.cli import main

TEXTS = ["hello world", 'a "quoted", text', "Ça va 世界 🙂", ""]


@pytest.fixture(scope="module")
def expected(tiny_bundle):
    return pipeline(None, tiny_bundle, precision="fp32")(TEXTS)


def run(bundle, *arguments):
    return main(["run", str(bundle), "--precision", "fp32", *map(str, arguments)])


def test_texts_on_the_command_line(tiny_bundle, expected, capsys):
    assert run(tiny_bundle, "--json", *TEXTS[:3]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert rows == [{"text": text, **answer} for text, answer in zip(TEXTS[:3], expected, strict=False)]
    assert "3 texts on cpu in fp32: loaded in" in printed.err


def test_options_may_stand_between_the_bundle_and_its_texts(tiny_bundle, capsys):
    assert main(["run", str(tiny_bundle), "--device", "cpu", "hello", "--json", "world"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_for_people(tiny_bundle, capsys):
    assert run(tiny_bundle, "hello world") == 0
    label, score, text = capsys.readouterr().out.strip().split("  ")
    assert label in ("NEGATIVE", "POSITIVE")
    assert 0.5 <= float(score) <= 1
    assert text == "hello world"


def test_stdin(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nworld\n"))
    assert run(tiny_bundle, "--json") == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["hello", "world"]


def write(path, texts):
    if path.suffix == ".txt":
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *([1, text] for text in texts)])


@pytest.mark.parametrize("kind", [".txt", ".csv", ".jsonl"])
def test_files_in_and_out(tiny_bundle, tmp_path, expected, kind):
    source, target = tmp_path / f"in{kind}", tmp_path / "out.jsonl"
    write(source, TEXTS * 300)
    assert run(tiny_bundle, "--input", source, "--output", target) == 0
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == TEXTS * 300
    assert [row["label"] for row in rows[:4]] == [answer["label"] for answer in expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, "out.jsonl"])


def test_csv_out(tiny_bundle, tmp_path, expected):
    source, target = tmp_path / "in.txt", tmp_path / "out.csv"
    write(source, TEXTS)
    assert run(tiny_bundle, "--input", source, "--output", target) == 0
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == TEXTS
    assert [float(row["score"]) for row in rows] == pytest.approx([answer["score"] for answer in expected], abs=1e-4)


def test_pairs_in_jsonl(tiny_bundle, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"text": "hello", "text_pair": "world"}) + "\n")
    assert run(tiny_bundle, "--input", source, "--output", target) == 0
    assert json.loads(target.read_text())["text_pair"] == "world"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.jsonl", '"good"\n{"txt": 1}\n', "in.jsonl, line 2: the object has no field"),
        ("in.jsonl", '"good"\n{oops\n', "in.jsonl, line 2: not valid JSON"),
        ("in.csv", "id,text\n1,good\n2\n", "in.csv, line 3: the row has 1 columns"),
        ("in.txt", "good\n" + "hello " * 500, r"in.txt, line 2: the text has 502 tokens"),
        ("in.jsonl", '"good"\n17\n', "in.jsonl, line 2: "),
        ("in.xml", "<a/>", r"cannot read \.xml; choose \.txt"),
    ],
)
def test_a_bad_row_is_named_and_no_output_appears(tiny_bundle, tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    assert run(tiny_bundle, "--input", tmp_path / name, "--output", tmp_path / "out.jsonl") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out.jsonl").exists()


def test_truncation_is_asked_for(tiny_bundle, capsys):
    assert run(tiny_bundle, "long " * 500) == 2
    assert "truncation=True" in capsys.readouterr().err
    assert run(tiny_bundle, "long " * 500, "--truncation") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--task", "image-classification", "x"], "unknown task"),
        (["bogus"], "unknown command 'bogus'; choose bench, doctor, explain"),
        (["verify", "/nowhere"], "no folder /nowhere"),
        (["explain", "one", "two"], "explain takes one text"),
    ],
)
def test_a_wrong_call_is_exit_code_2_and_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.strip().splitlines()) == 1


def test_a_bare_call_shows_the_commands(capsys):
    assert main([]) == 2
    assert "explain" in capsys.readouterr().err
