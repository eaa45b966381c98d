"""Where the repository and the tests' data are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
# A bundle of format version 1, never written again: a random two-label BERT of one layer.
BUNDLE_V1 = DATA / "bundle-v1"
# The default model, a wheel of its own, as its sources have it.
EMBEDDED = ROOT / "models" / "untorch-minilm-sst2" / "untorch_minilm_sst2" / "bundle"
