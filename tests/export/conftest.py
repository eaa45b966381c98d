from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

# The models here are tiny: a second thread only waits for the first, and on a busy machine for long.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def exported(make_bundle):
    """`exported("Bert")` → (checkpoint folder, bundle folder) of a tiny two-label classifier, made once."""
    from helpers.families import family

    def get(name: str, head: str = "ForSequenceClassification") -> tuple[Path, Path]:
        return make_bundle(f"{name}{head}", lambda folder: family(folder, name, head))

    return get


@pytest.fixture(scope="session")
def halved(make_bundle):
    """A random two-label BERT: its checkpoint and its bundle with fp32, fp16 and fp16_packed."""
    from helpers.checkpoints import small_bert

    return make_bundle("halved", small_bert, precisions=("fp32", "fp16", "fp16_packed"))


@pytest.fixture(scope="session")
def fused(halved, tmp_path_factory):
    """Its graph in fp32, fused as a card wants it."""
    from untorch.bundle.folder import read_json
    from untorch_export.checkpoint.load import load
    from untorch_export.graph import fusion
    from untorch_export.trace import trace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's tracer warns of every constant it meets
        loaded = load(halved[0])  # traced again: the bundle's graph is rewritten for older readers
        path = trace(loaded.model, loaded.task, tmp_path_factory.mktemp("traced"))["model"]
    return fusion.fuse(path, read_json(halved[1] / "config.json"), device="cuda")
