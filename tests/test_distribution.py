"""What is published, not the checkout: the wheel and the sdist, in an environment with nothing but their requirements.

The environment is put together from the files of the installed requirements, so that no network is needed.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers.paths import ROOT

FORBIDDEN = {"torch", "transformers", "optimum", "onnx", "scipy"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist), the wheel built from the sdist as `python -m build` does."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def requirements(name, extras=()):
    """Names of the distributions that `name` with `extras` needs, transitively, as installed here."""
    found = set()
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker is None or any(requirement.marker.evaluate(each) for each in environments):
            found.add(requirement.name)
            found |= requirements(requirement.name, requirement.extras)
    return found


def lay_out(names, target):
    """Link every file of these distributions into `target`; gives their size in bytes."""
    size = 0
    for name in names:
        for file in importlib.metadata.files(name) or ():
            source = Path(file.locate())
            if ".." in file.parts or "__pycache__" in file.parts or not source.is_file():
                continue
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                try:
                    os.link(source, place)
                except OSError:
                    shutil.copy(source, place)
                size += place.stat().st_size
    return size


@pytest.fixture(scope="module")
def clean(built, tmp_path_factory):
    """A folder with the wheel and the `cpu` extra's requirements, and its size in bytes."""
    target = tmp_path_factory.mktemp("site")
    needed = requirements("untorch", ["cpu"])
    assert {"numpy", "tokenizers", "onnxruntime"} <= needed
    assert not needed & FORBIDDEN
    size = lay_out(sorted(needed), target)
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(target)
        size += sum(item.file_size for item in wheel.infolist())
    return target, size


def python(site, *arguments):
    """Run Python with `site` as its only folder of packages."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=site)


def test_the_wheel_holds_the_two_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"untorch", "untorch_export"} < tops
    assert all(top.endswith(".dist-info") for top in tops - {"untorch", "untorch_export"})
    assert {"untorch/py.typed", "untorch_export/py.typed", "untorch/tools/probe.onnx"} <= set(names)
    assert not any("__pycache__" in name for name in names)


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built[1]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "runtime/untorch/__init__.py"} <= names
    assert not any(name.startswith(("tests", "models", "benchmarks")) for name in names)


def test_the_wheel_answers_without_torch(clean, tiny_bundle):
    site, _ = clean
    assert python(site, "-c", "import torch").returncode != 0
    result = python(site, "-m", "untorch", "run", tiny_bundle, "hello world")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] in ("NEGATIVE", "POSITIVE")
    assert python(site, "-m", "untorch", "verify", tiny_bundle).returncode == 0
    assert python(site, "-m", "untorch", "doctor").returncode == 0


def test_exporting_without_torch_says_what_to_install(clean, tmp_path):
    result = python(clean[0], "-m", "untorch", "export", "anything", "-o", tmp_path / "bundle")
    assert result.returncode == 2
    assert "untorch[export]" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_the_wheel_with_its_requirements_is_small(clean):
    assert clean[1] <= 200e6
