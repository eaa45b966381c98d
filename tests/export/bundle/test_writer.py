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

from helpers import fuzzing
from untorch.bundle.folder import Bundle
from untorch_export.bundle import writer
from untorch_export.errors import ExportError

# Writes bundles of several files, each of one and the same letter, as fast as it can.
WRITER = """
import sys
from pathlib import Path
from untorch_export.bundle import writer
from untorch.bundle.manifest import GraphFile, Variant
target, letters = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for letter in letters * 1000:
    with writer.staged(target) as folder:
        (folder / "onnx").mkdir()
        for name in ("onnx/model.onnx", "config.json", "onnx/model.onnx_data"):
            (folder / name).write_text(letter * 4000)
        variant = Variant("fp32", {"model": GraphFile("onnx/model.onnx", ("onnx/model.onnx_data",))})
        writer.write_manifest(
            folder, task="t", source={"name": letter}, variants={"fp32": variant}, tools={}, extra={}
        )
"""


# `make fuzz` kills the writer and a whole export at fifty moments each.
KILLS, EXPORTS_KILLED = (50, 50) if fuzzing.is_long() else (12, 4)


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


@pytest.mark.fuzz
def test_killed_at_any_moment_leaves_one_whole_bundle(tmp_path):
    target = tmp_path / "bundle"
    seen = set()
    chance = random.Random(4)
    for _ in range(KILLS):
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


# Imports everything once, then exports in a fork of itself each time a seed comes in; says when the export begins.
EXPORTER = """
import os, sys, warnings
from pathlib import Path
import torch, transformers
from untorch_export.export import export
from untorch_export.trace import transformers_5
if transformers_5():
    import untorch_export.trace.dynamo
else:
    import untorch_export.trace.optimum
warnings.simplefilter("ignore")
checkpoint, target = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        export(checkpoint, target, random_init=True, seed=int(line), keep_failed=True)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def exporter(tiny_checkpoint, tmp_path):
    """`exporter(seed, kill_after)`: export to tmp_path/bundle, killed after so many seconds; gives the exit code."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORTER, tiny_checkpoint, tmp_path / "bundle"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"

    def export(seed, kill_after=None):
        print(seed, file=process.stdin, flush=True)
        child = int(process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return int(process.stdout.readline())

    yield export
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.mark.fuzz
def test_a_whole_export_killed_at_any_moment_leaves_the_old_bundle_or_the_new_one(exporter, tmp_path):
    """From reading the checkpoint to the exchange of the folders."""
    target = tmp_path / "bundle"
    start = time.monotonic()
    assert exporter(0) == 0
    whole = time.monotonic() - start
    manifests = {(target / "untorch.json").read_bytes()}
    chance = random.Random(5)
    outcomes = []
    for seed in range(1, EXPORTS_KILLED + 1):
        outcomes.append(exporter(seed, chance.uniform(0.0, 1.1 * whole)))
        bundle = Bundle(target)
        bundle.check()
        manifest = (target / "untorch.json").read_bytes()
        if outcomes[-1] == 0:
            assert manifest not in manifests
            manifests = {manifest}
        # A kill after the exchange finds the new bundle in place.
        assert manifest in manifests or bundle.manifest.source["seed"] == seed
        manifests.add(manifest)
    assert -signal.SIGKILL in outcomes
    assert exporter(0) == 0  # and the next one sweeps what they left
    assert [path.name for path in tmp_path.iterdir() if "bundle" in path.name] == ["bundle"]


def test_two_processes_that_write_to_one_folder_at_once(tmp_path):
    target = tmp_path / "bundle"
    processes = [start(target, letter) for letter in "abc"]
    time.sleep(1.0)
    for process in processes:
        assert process.poll() is None
        kill(process)
    assert content(target) in "abc"


# Writes one bundle of half a megabyte under the limits it is given.
WRITE_UNDER = """
import resource, sys
from pathlib import Path
from untorch.errors import UntorchError
from untorch_export.bundle import writer
if (limit := int(sys.argv[2])):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with writer.staged(Path(sys.argv[1])) as folder:
        (folder / "config.json").write_text("new")
        (folder / "weights").write_bytes(bytes(500_000))
        writer.write_manifest(folder, task="t", source={}, variants={}, tools={}, extra={})
except UntorchError as error:
    print(error)
    sys.exit(7)
"""


def write_under(target, limit=0, wrapper=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*wrapper, sys.executable, "-c", WRITE_UNDER, str(target), str(limit)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("limit", [1, 10_000, 499_999])
@pytest.mark.parametrize("there", [False, True])
def test_no_room_for_a_file(tmp_path, limit, there):
    """What a quota does, and a file system whose files may not be so large."""
    target = tmp_path / "bundle"
    if there:
        write(target, "old")
    result = write_under(target, limit)
    assert result.returncode == 7, result.stderr
    assert "could not be written" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"] * there
    assert not there or (target / "file").read_text() == "old"


def mounts():
    """Whether a process may have a mount of its own here."""
    try:
        command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(not mounts(), reason="no mount of its own is allowed here (unshare --user --mount)")


@needs_mounts
@pytest.mark.parametrize(("options", "message"), [("size=100k", "could not be written"), ("ro", "cannot write beside")])
def test_a_full_disk_and_one_that_is_read_only(tmp_path, options, message):
    """A real file system of a hundred kilobytes, and one that takes no writes, both with a bundle on it already."""
    disk = tmp_path / "disk"
    disk.mkdir()
    write(tmp_path / "bundle", "old")
    script = (
        f"mount -t tmpfs none {disk} && cp -r {tmp_path}/bundle {disk} && mount -o remount,{options} {disk}; "
        f'"$@"; code=$?; ls -A {disk}; cat {disk}/bundle/file; exit $code'
    )
    wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    result = write_under(disk / "bundle", wrapper=wrapper)
    assert result.returncode == 7, result.stderr
    assert message in result.stdout
    assert result.stdout.endswith("bundle\nold")


def test_a_target_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file/bundle", "/proc/nothing/bundle"):
        result = write_under(place)
        assert result.returncode == 7, result.stderr
        assert "cannot write beside" in result.stdout


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
