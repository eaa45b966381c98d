"""Whatever happens to an export, the target is the old bundle or the new one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from untorch.bundle import Bundle
from untorch_export import writer
from untorch_export.errors import ExportError

# Writes bundles of several files, each of one and the same letter, as fast as it can.
WRITER = """
import sys
from pathlib import Path
from untorch_export import writer
from untorch.bundle import Graph, Variant
target, letters = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for letter in letters * 1000:
    with writer.staged(target) as folder:
        (folder / "onnx").mkdir()
        for name in ("onnx/model.onnx", "config.json", "onnx/model.onnx_data"):
            (folder / name).write_text(letter * 4000)
        variant = Variant("fp32", {"model": Graph("onnx/model.onnx", ("onnx/model.onnx_data",))})
        writer.write_manifest(
            folder, task="t", source={"name": letter}, variants={"fp32": variant}, tools={}, extra={}
        )
"""


def start(target, letters="ab"):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, target, letters], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def write(target, letter):
    with writer.staged(target) as folder:
        (folder / "file").write_text(letter)
        writer.write_manifest(folder, task="t", source={}, variants={}, tools={}, extra={})


def content(target):
    """The letter of a bundle, once every file was found to hold it and the manifest's digests."""
    bundle = Bundle(target)
    bundle.check()
    letter = bundle.manifest.source["name"]
    for name in bundle.manifest.files:
        assert (target / name).read_text() == letter * 4000
    return letter


def test_killed_at_any_moment_leaves_one_whole_bundle(tmp_path):
    target = tmp_path / "bundle"
    seen = set()
    chance = random.Random(4)
    for _ in range(12):
        process = start(target)
        time.sleep(chance.uniform(0.0, 0.12))
        kill(process)
        if target.exists():
            seen.add(content(target))
    assert seen  # at least one bundle was finished
    with writer.staged(target) as folder:  # the next export sweeps what the killed ones left
        assert [path for path in tmp_path.iterdir() if path not in (target, folder)] == []
        shutil.copytree(target, folder, dirs_exist_ok=True)
    assert list(tmp_path.iterdir()) == [target]


def letters_of(target):
    """The letters in the files of the folder that is there now. An old one may be on its way out: files may be gone."""
    held = os.open(target, os.O_RDONLY)  # fails where there is no folder, even for a moment
    letters = set()
    for name in ("config.json", "onnx/model.onnx", "onnx/model.onnx_data"):
        with suppress(FileNotFoundError):
            file = os.open(name, os.O_RDONLY, dir_fd=held)
            letters.add(os.read(file, 1).decode())
            os.close(file)
    os.close(held)
    return letters


def test_readers_never_see_a_mixture_or_a_gap(tmp_path):
    target = tmp_path / "bundle"
    process = start(target)
    try:
        while not target.exists():
            time.sleep(0.005)
        seen = []
        deadline = time.monotonic() + 20
        while (len(seen) < 300 or {"a", "b"} > set().union(*seen)) and time.monotonic() < deadline:
            seen.append(letters_of(target))
    finally:
        kill(process)
    content(target)
    assert all(len(letters) <= 1 for letters in seen)
    assert {"a", "b"} == set().union(*seen)


def test_two_exports_at_once_do_not_sweep_each_other(tmp_path):
    target = tmp_path / "bundle"
    with writer.staged(target) as first:
        (first / "file").write_text("first")
        write(target, "second")
        assert (first / "file").read_text() == "first"
        writer.write_manifest(first, task="t", source={}, variants={}, tools={}, extra={})
    assert (target / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_export_that_fails_leaves_nothing(tmp_path, error):
    def fail(target):
        with writer.staged(target) as folder:
            (folder / "file").write_text("half")
            raise error

    with pytest.raises(error):
        fail(tmp_path / "new/deep/bundle")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "bundle", "old")
    with pytest.raises(error):
        fail(tmp_path / "bundle")
    assert (tmp_path / "bundle/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_without_an_exchange_the_old_bundle_comes_back(tmp_path, monkeypatch):
    """Two renames instead of one step; an export that dies between them has moved the old bundle aside."""
    target = tmp_path / "bundle"
    monkeypatch.setattr(writer, "_exchange", lambda folder, target: False)
    write(target, "old")
    write(target, "new")
    assert (target / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]
    target.rename(tmp_path / ".bundle.untorch-0123-old")
    with pytest.raises(RuntimeError), writer.staged(target):
        raise RuntimeError
    assert (target / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_targets_that_would_lose_something_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.txt").touch()
    write(tmp_path / "bundle", "x")
    (tmp_path / "bundle/notes.md").touch()
    for name, message in (
        ("file", "not a folder"),
        ("foreign", "not empty and not a bundle"),
        ("bundle", r"not the bundle's \(notes.md\)"),
    ):
        with pytest.raises(ExportError, match=message):
            write(tmp_path / name, "y")
    assert (tmp_path / "foreign/thesis.txt").exists()
    assert (tmp_path / "bundle/file").read_text() == "x"


def test_an_empty_folder_and_a_link_to_a_bundle_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "x")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write(tmp_path / "link", "y")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty/file").read_text() == "y"
