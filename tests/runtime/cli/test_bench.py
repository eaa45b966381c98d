from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO

import pytest

from untorch.cli import main
from untorch.tools.texts import sentences, text_of

TRANSFORMERS = """
from transformers import pipeline

def transformers(folder, task):
    return pipeline(task, {checkpoint!r}, device="cpu")
"""


@pytest.fixture(scope="module")
def measured(tiny_bundle, tiny_checkpoint, tmp_path_factory):
    folder, out = tmp_path_factory.mktemp("engines"), StringIO()
    (folder / "mine.py").write_text(TRANSFORMERS.format(checkpoint=str(tiny_checkpoint)))
    arguments = ["--calls", "4", "--texts", "8", "--engine", "mine:transformers", "--json"]
    with redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = main(["bench", str(tiny_bundle), *arguments])
    return code, {row["engine"]: row for row in map(json.loads, out.getvalue().splitlines())}


def test_every_engine_here_is_measured(measured):
    code, rows = measured
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == {}
    assert code == 0
    assert rows.keys() == {"untorch fp32", "untorch int8", "onnxruntime fp32", "mine:transformers"}


def test_what_is_measured(measured):
    _, rows = measured
    for row in rows.values():
        # The tiny model takes 64 tokens, so a text of 128 is left out.
        assert list(row["latency"]) == ["16", "32"]
        assert all(len(samples) == 4 and min(samples) > 0 for samples in row["latency"].values())
        assert row["throughput"] > 0
        assert row["start"] > 0
        assert row["peak"] > 10e6


def test_the_table(tiny_bundle, tmp_path, capsys):
    int8_only = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((int8_only / "untorch.json").read_text())
    del manifest["variants"]["fp32"]
    (int8_only / "untorch.json").write_text(json.dumps(manifest))
    assert main(["bench", str(int8_only), "--calls", "2", "--texts", "4"]) == 0
    name, _, row = capsys.readouterr().out.splitlines()
    assert name == str(int8_only)
    assert row.split()[:2] == ["untorch", "int8"]
    assert "too long" in row
    assert "MB" in row


def test_an_engine_that_fails_is_reported_and_the_others_are_measured(tiny_bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("def broken(folder, task):\n    raise ValueError('no such model')\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["--calls", "1", "--texts", "1", "--engine", "mine:broken", "--engine", "missing:engine", "--json"]
    assert main(["bench", str(tiny_bundle), *arguments]) == 1
    errors = {row["engine"]: row["error"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert errors.pop("mine:broken") == "ValueError: no such model"
    assert "No module named 'missing'" in errors.pop("missing:engine")
    assert set(errors.values()) == {None}


def test_an_engine_that_is_not_named_by_module_and_function_is_refused(tiny_bundle, capsys):
    assert main(["bench", str(tiny_bundle), "--engine", "transformers"]) == 2
    assert "MODULE:FUNCTION" in capsys.readouterr().err


def test_a_text_is_as_long_as_asked():
    def count(text):
        return 2 + len(text.split())

    for tokens in (4, 16, 128):
        assert count(text_of(count, tokens)) == tokens
    assert text_of(count, 16, start=1) != text_of(count, 16)


def test_sentences_have_lengths_within_bounds_and_are_always_the_same():
    def count(text):
        return 2 + len(text.split())

    made = sentences(count, 200, 48)
    lengths = [count(text) for text in made]
    assert min(lengths) >= 4
    assert max(lengths) == 48
    assert sentences(count, 200, 48) == made


def test_a_task_that_takes_no_plain_text_is_refused(tiny_bundle, capsys):
    assert main(["bench", str(tiny_bundle), "--task", "question-answering"]) == 2
    assert "can be measured" in capsys.readouterr().err
