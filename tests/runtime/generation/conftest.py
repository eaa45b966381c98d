from __future__ import annotations

import pytest
import transformers

from helpers.generators import CAUSAL, generator
from untorch import AutoModelForCausalLM, AutoModelForSeq2SeqLM

_loaded = {}


@pytest.fixture(scope="session")
def models(make_bundle):
    """`models("GPT2")` → (ours, transformers') of a tiny random checkpoint, exported once."""

    def get(name: str):
        if name not in _loaded:
            source, bundle = make_bundle(
                f"{name}-generates", lambda folder: generator(folder, name), precisions=["fp32"]
            )
            kind = "AutoModelForCausalLM" if name in CAUSAL else "AutoModelForSeq2SeqLM"
            ours = (AutoModelForCausalLM if name in CAUSAL else AutoModelForSeq2SeqLM).from_pretrained(bundle)
            _loaded[name] = ours, getattr(transformers, kind).from_pretrained(source).eval()
        return _loaded[name]

    return get


@pytest.fixture(autouse=True)
def quiet():
    """transformers warns of everything it decides for its caller."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(verbosity)
