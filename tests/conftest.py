"""Fixtures that every test folder shares."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Nothing here may reach for the network, and two pools of threads on a small machine only get in each other's way.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

sys.path.insert(0, str(Path(__file__).resolve().parent))
from helpers import fuzzing  # noqa: F401  # it registers the profiles
from helpers.paths import BUNDLE_V1, ROOT

settings.load_profile("suite")


@pytest.fixture
def frozen_bundle(tmp_path) -> Path:
    """A copy of the committed bundle of format version 1: a random two-label BERT of one layer."""
    return shutil.copytree(BUNDLE_V1, tmp_path / "frozen")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared material is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory):
    """Export once per session: `make_bundle(name, make_checkpoint, **export arguments)` gives both folders."""
    pytest.importorskip("torch", reason="the exporter is not installed here")
    from untorch_export.export import export

    made: dict[str, tuple[Path, Path]] = {}

    def make(name, checkpoint, **arguments):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            source = checkpoint if isinstance(checkpoint, (str, Path)) else checkpoint(folder / "checkpoint")
            export(source, folder / "bundle", **arguments)
            made[name] = (Path(source), folder / "bundle")
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny(make_bundle) -> tuple[Path, Path]:
    """A random two-label BERT classifier: its checkpoint and its bundle (fp32 and int8)."""
    from helpers.checkpoints import small_bert

    return make_bundle("tiny", small_bert, precisions=["fp32", "int8"], keep_failed=True)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny) -> Path:
    return tiny[0]


@pytest.fixture(scope="session")
def tiny_bundle(request, tmp_path_factory) -> Path:
    """Its bundle; where no exporter is installed, a copy of the committed one, which is of the same kind."""
    if importlib.util.find_spec("torch") is None:
        return shutil.copytree(BUNDLE_V1, tmp_path_factory.mktemp("tiny") / "bundle")
    return request.getfixturevalue("tiny")[1]
