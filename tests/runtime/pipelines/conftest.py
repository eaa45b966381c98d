from __future__ import annotations

from pathlib import Path

import pytest
import transformers


@pytest.fixture(scope="session")
def roberta(make_bundle):
    """`roberta("ForMaskedLM")` → (checkpoint, bundle) of a tiny random RoBERTa: byte pairs, no word pieces."""
    from helpers.families import family

    def make(folder: Path, head: str) -> Path:
        family(folder, "Roberta", head)
        # Saved again with its limit, without which transformers runs over the end of the positions.
        transformers.RobertaTokenizerFast.from_pretrained(folder, model_max_length=64).save_pretrained(folder)
        return folder

    return lambda head: make_bundle(f"roberta-{head}", lambda folder: make(folder, head), precisions=["fp32"])
