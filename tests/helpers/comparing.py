"""What the pipelines' tests compare with: transformers' own answers, structure by structure."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import transformers

from untorch import pipeline

# Tasks that transformers 5 has no pipelines for any more.
DROPPED = ("question-answering", "summarization", "translation", "text2text-generation")

TEXTS = [
    "I've been waiting for a HuggingFace course my whole life.",
    "hello people, this city is a good movie!",
    "",
    "a",
    "   ",
    "Ça va très bien, 世界! 🙂 مرحبا Привет",
    "\u0000 control \x07 characters\n\tand new lines",
    "good " * 30,
]


def same(ours, theirs, tolerance=1e-4):
    """Equal structure, labels, spans and order; numbers to `tolerance`."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key], tolerance)
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, tolerance)
    elif isinstance(theirs, (float, np.floating)):
        assert isinstance(ours, float)
        assert ours == pytest.approx(float(theirs), abs=tolerance)
    else:
        assert ours == theirs


def transformers_pipeline(task: str, source, **options):
    """transformers' own pipeline, on the CPU. Skips the test where the installed version no longer has one."""
    if int(transformers.__version__.partition(".")[0]) >= 5 and task.startswith(DROPPED):
        pytest.skip(f"transformers 5 has no pipeline for {task}; `make test` compares with that of 4.57")
    return transformers.pipeline(task, source, device="cpu", **options)


@cache
def both(task: str, source: Path, bundle: Path):
    """(ours, transformers') for one checkpoint and the bundle made of it."""
    return pipeline(task, bundle, precision="fp32"), transformers_pipeline(task, str(source))
