from __future__ import annotations

import json
import shutil

import pytest

from untorch.bundle.folder import Bundle
from untorch.cli import main
from untorch.tools.benchmark import Engine, engines, text_of


@pytest.fixture(scope="module")
def measured(tiny_bundle, tiny_checkpoint):
    from contextlib import redirect_stdout
    from io import StringIO

    out = StringIO()
    arguments = ["--calls", "4", "--texts", "8", "--checkpoint", str(tiny_checkpoint), "--json"]
    with redirect_stdout(out):
        code = main(["bench", str(tiny_bundle), *arguments])
    return code, {row["engine"]: row for row in map(json.loads, out.getvalue().splitlines())}


def test_every_engine_here_is_measured(measured):
    code, rows = measured
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == {}
    assert code == 0
    assert {"untorch fp32", "untorch int8", "onnxruntime fp32", "transformers fp32"} <= rows.keys()


def test_what_is_measured(measured):
    _, rows = measured
    row = rows["untorch int8"]
    # The tiny model takes 64 tokens, so a text of 128 is left out.
    assert list(row["latency"]) == ["16", "32"]
    assert all(len(samples) == 4 and min(samples) > 0 for samples in row["latency"].values())
    assert row["throughput"] > 0
    assert 0 < row["start"] < 120
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


def test_engines_are_the_variants_and_what_is_installed(tiny_bundle):
    found = engines(Bundle(tiny_bundle))
    assert Engine("untorch", "int8", str(tiny_bundle)) in found
    assert all(engine.kind != "transformers" for engine in found)


def test_a_text_is_as_long_as_asked():
    def count(text):
        return 2 + len(text.split())

    for tokens in (4, 16, 128):
        assert count(text_of(count, tokens)) == tokens
    assert text_of(count, 16, start=1) != text_of(count, 16)


def test_a_task_that_takes_no_plain_text_is_refused(tiny_bundle, capsys):
    assert main(["bench", str(tiny_bundle), "--task", "question-answering"]) == 2
    assert "can be measured" in capsys.readouterr().err
