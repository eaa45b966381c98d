from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

# The models here are tiny: a second thread only waits for the first, and on a busy machine for long.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def exported(make_bundle):
    """`exported("Bert")` → (checkpoint folder, bundle folder) of a tiny two-label classifier, made once."""
    from families import family

    def get(name: str, head: str = "ForSequenceClassification") -> tuple[Path, Path]:
        return make_bundle(f"{name}{head}", lambda folder: family(folder, name, head))

    return get
