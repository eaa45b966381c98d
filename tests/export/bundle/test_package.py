"""A bundle as a wheel: built, installed somewhere else, and found there by name and by task."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from untorch.bundle.folder import Bundle
from untorch.errors import IntegrityError
from untorch_export.bundle.package import build_wheel, package, write_project
from untorch_export.errors import ExportError


@pytest.fixture(scope="module")
def bundle(exported):
    return exported("Bert")[1]


@pytest.fixture(scope="module")
def wheel(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return package(bundle, folder, name="tiny-bert", version="0.3", default_for=["a-task-of-its-own"])


def test_installed_wheel_is_found_by_name_and_by_task(wheel, bundle, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, tmp_path, wheel], check=True)
    (distribution,) = importlib.metadata.distributions(path=[str(tmp_path)])
    found = {(entry.group, entry.name): entry.value for entry in distribution.entry_points}
    assert found == {
        ("untorch.models", "tiny-bert"): "untorch_tiny_bert",
        ("untorch.default_models", "a-task-of-its-own"): "untorch_tiny_bert",
    }
    installed = Bundle(tmp_path / "untorch_tiny_bert/bundle")
    installed.check()
    assert installed.manifest == Bundle(bundle).manifest
    code = (
        "from untorch.bundle.hub import resolve, default_model; print(resolve('tiny-bert'), default_model(sys.argv[1]))"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", "a-task-of-its-own"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(installed.path)] * 2


def test_wheel_holds_the_bundle_its_module_and_nothing_else(wheel, bundle):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"untorch_tiny_bert/bundle/{name}" for name in ("untorch.json", *Bundle(bundle).manifest.files)}
    assert names == {"untorch_tiny_bert/__init__.py", *expected}


def test_the_same_bundle_gives_the_same_wheel(wheel, bundle, tmp_path):
    again = package(bundle, tmp_path, name="tiny-bert", version="0.3", default_for=["a-task-of-its-own"])
    assert again.read_bytes() == wheel.read_bytes()


def test_project_is_complete_and_readable(bundle, tmp_path):
    assert write_project(bundle, tmp_path / "p", name="x", license="Apache-2.0", readme="# mine\n") == "untorch-x"
    project = tomllib.loads((tmp_path / "p/pyproject.toml").read_text())
    assert project["project"]["license"] == "Apache-2.0"
    assert project["project"]["dependencies"] == ["untorch"]
    assert "untorch.default_models" not in project["project"]["entry-points"]
    assert (tmp_path / "p/README.md").read_text() == "# mine\n"
    shutil.move(tmp_path / "p", tmp_path / "a place")
    assert build_wheel(tmp_path / "a place", tmp_path / "out").name == "untorch_x-1.0.0-py3-none-any.whl"


def test_a_variant_that_was_deleted_is_not_missed(frozen_bundle, tmp_path):
    for file in frozen_bundle.glob("onnx/*int8*"):
        file.unlink()
    write_project(frozen_bundle, tmp_path / "project", name="smaller")
    assert list(Bundle(tmp_path / "project/untorch_smaller/bundle").variants) == ["fp32"]


def test_name_and_card_come_from_the_manifest(bundle, tmp_path):
    assert write_project(bundle, tmp_path / "p") == "untorch-checkpoint"
    card = (tmp_path / "p/README.md").read_text()
    assert "| fp32 | exact | largest difference" in card
    assert Bundle(bundle).manifest.source["weights"]["model.safetensors"] in card


def test_what_cannot_be_packaged(bundle, tmp_path):
    for settings in ({"name": "Not Good"}, {"name": "a_b"}, {"version": "one"}, {"name": 'x"y'}):
        with pytest.raises(ExportError, match=r"--name|--version"):
            write_project(bundle, tmp_path / "p", **settings)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ExportError, match="not an empty folder"):
        write_project(bundle, tmp_path / "full")
    plain = shutil.copytree(bundle, tmp_path / "plain")
    (plain / "untorch.json").unlink()
    with pytest.raises(ExportError, match=r"no untorch\.json"):
        write_project(plain, tmp_path / "p")
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    weights = damaged / "onnx/model.onnx_data"
    weights.write_bytes(b"\0" * weights.stat().st_size)
    with pytest.raises(IntegrityError):
        write_project(damaged, tmp_path / "p")
    assert not (tmp_path / "p").exists()
