"""Promises to those who upgrade: format version 1 loads and answers, and the public interface changes knowingly."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

import untorch
from untorch import Bundle, FormatError, pipeline
from untorch.bundle.manifest import FORMAT_VERSION
from untorch.tools.verification import verify

DATA = Path(__file__).resolve().parents[2] / "data"


def test_a_bundle_of_version_1_loads_and_answers():
    """The folder is frozen: it is what version 1 wrote, and no later untorch may need it changed."""
    answers = json.loads((DATA / "bundle-v1-answers.json").read_text())
    classify = pipeline(None, DATA / "bundle-v1", precision="fp32", device="cpu", threads=1)
    for text, expected in answers:
        answer = classify(text)[0]
        assert answer["label"] == expected["label"]
        np.testing.assert_allclose(answer["score"], expected["score"], atol=1e-5)


def test_a_bundle_of_version_1_holds_its_digests_and_its_reference():
    bundle = Bundle(DATA / "bundle-v1")
    bundle.check()
    assert list(bundle.variants) == ["fp32", "int8"]
    assert json.loads((DATA / "bundle-v1/untorch.json").read_text())["format_version"] == 1
    fp32 = next(replay for replay in verify(bundle, device="cpu").replays if replay.precision == "fp32")
    assert fp32.passed


def test_the_next_version_is_refused_by_number(frozen_bundle):
    path = frozen_bundle / "untorch.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(FormatError, match=f"format version {FORMAT_VERSION + 1}.*Upgrade untorch"):
        pipeline(None, frozen_bundle)


def public_interface():
    """Every public name of the package, with its signature; of classes also those of their public methods."""
    for name in sorted(untorch.__all__):
        if name == "__version__":
            continue
        value = getattr(untorch, name)
        if not inspect.isclass(value):
            yield f"{name}{inspect.signature(value)}"
            continue
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases})" if bases else f"class {name}"
        for member in sorted(dir(value)):
            owner = next((parent for parent in value.__mro__ if member in vars(parent)), None)
            if owner is None or not owner.__module__.startswith("untorch"):
                continue
            attribute = inspect.getattr_static(value, member)
            if member in ("__init__", "__call__") and inspect.isfunction(attribute):
                yield f"    {member}{inspect.signature(attribute)}"
            elif member.startswith("_"):
                continue
            elif isinstance(attribute, property):
                yield f"    {member}"
            elif inspect.isroutine(getattr(value, member)):
                yield f"    {member}{inspect.signature(getattr(value, member))}"


def test_the_public_interface_is_the_one_that_is_listed():
    """Where it is meant to change: python tests/runtime/bundle/test_compatibility.py > tests/data/public_interface.txt."""
    assert list(public_interface()) == (DATA / "public_interface.txt").read_text().splitlines()


if __name__ == "__main__":
    print("\n".join(public_interface()))
