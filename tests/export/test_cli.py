"""`untorch export` and `untorch package` as a user calls them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import pytest

from helpers.families import family
from untorch.bundle.folder import Bundle
from untorch.errors import UntorchError
from untorch_export import cli, package_cli
from untorch_export import export as road
from untorch_export.parity import gates
from untorch_export.trace import transformers_5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return family(tmp_path_factory.mktemp("cli"), "DistilBert", max_position_embeddings=40)


def call(module, *arguments):
    parser = argparse.ArgumentParser()
    module.configure(parser)
    return module.run(parser.parse_args([str(argument) for argument in arguments]))


def test_table_and_progress(checkpoint, tmp_path, capsys):
    assert call(cli, checkpoint, "-o", tmp_path / "bundle") == 0
    out, err = capsys.readouterr()
    assert "text-classification" in out
    for word in ("fp32", "int8", "2 of 2", "exact", "close"):
        assert word in out
    for step in ("load", "convert", "int8", "compare with PyTorch"):
        assert step in err
    assert "━" in err
    assert "━" not in out


def test_what_was_not_compared_has_no_difference(checkpoint, tmp_path, capsys):
    given = (checkpoint, "--precision", "fp32,fp16,fp16_packed")
    assert call(cli, *given, "-o", tmp_path / "table") == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "fp16_packed" in line]
    assert "–" in line
    assert call(cli, *given, "-o", tmp_path / "report", "--json") == 0
    *_, packed = json.loads(capsys.readouterr().out)["variants"]
    assert (packed["precision"], packed["max_abs_difference"]) == ("fp16_packed", None)


def test_json_and_precision(checkpoint, tmp_path, capsys):
    assert call(cli, checkpoint, "-o", tmp_path / "bundle", "--precision", "fp32", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["variants"]
    size = sum(file.stat().st_size for file in (tmp_path / "bundle/onnx").iterdir())
    assert (row["precision"], row["verdict"], row["bytes"], row["written"]) == ("fp32", "exact", size, True)


def test_a_missed_gate_is_exit_code_1(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(gates.LIMITS, "same decisions", (1.1, 1.1))
    assert call(cli, checkpoint, "-o", tmp_path / "bundle") == 1
    assert "not written" in capsys.readouterr().out
    assert list(Bundle(tmp_path / "bundle").variants) == ["fp32"]
    assert call(cli, checkpoint, "-o", tmp_path / "kept", "--keep-failed") == 1
    assert Bundle(tmp_path / "kept").variant("int8").verdict == "failed"
    assert call(cli, checkpoint, "-o", tmp_path / "none", "--precision", "int8") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_short_count_is_said_on_stderr(tmp_path, capsys):
    folder = family(tmp_path / "mixed", "Deberta", talking_head=True, type_vocab_size=0)
    call(cli, folder, "-o", tmp_path / "bundle")
    out, err = capsys.readouterr()
    assert "only 0 of 2 attention layers fused" in err
    assert "0 of 2" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "fp64"], "precision fp64 is unknown"),
        (["--precision", ","], "precision"),
        (["--task", "poetry"], "poetry"),
        (["--eval", "missing.tsv"], "missing.tsv"),
    ],
)
def test_wrong_calls_write_nothing(checkpoint, tmp_path, arguments, message):
    with pytest.raises(UntorchError, match=message):
        call(cli, checkpoint, "-o", tmp_path / "bundle", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["torch", "onnxscript" if transformers_5() else "optimum", "rich"])
def test_without_the_export_packages_the_error_says_what_to_install(checkpoint, tmp_path, missing):
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from untorch_export import cli\n"
        "import argparse; from untorch.errors import UntorchError\n"
        "parser = argparse.ArgumentParser(); cli.configure(parser)\n"
        "try: cli.run(parser.parse_args(sys.argv[2:]))\n"
        "except UntorchError as error: print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, missing, checkpoint, "-o", tmp_path / "bundle"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DependencyError exporting needs")
    assert missing in done.stdout
    assert 'pip install "untorch[export' in done.stdout


def test_progress_ends_every_step(checkpoint, tmp_path):
    seen = {}
    road.export(checkpoint, tmp_path / "bundle", progress=lambda step, done, total: seen.update({step: (done, total)}))
    assert all(done == total for done, total in seen.values())


def test_package_prints_the_wheel(checkpoint, tmp_path, capsys):
    road.export(checkpoint, tmp_path / "bundle", precisions=["fp32"])
    assert call(package_cli, tmp_path / "bundle", "-o", tmp_path, "--name", "small-one", "--version", "2.1") == 0
    wheel = tmp_path / "untorch_small_one-2.1-py3-none-any.whl"
    assert capsys.readouterr().out.strip() == str(wheel)
    assert wheel.is_file()
