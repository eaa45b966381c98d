"""What the pipelines' tests compare with: transformers' own answers, structure by structure."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import transformers

from helpers.older_pipelines import Reading, Writing
from helpers.tokenizers import MAJOR
from untorch import pipeline

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
    """transformers' own pipeline, on the CPU; of what it has for those tasks that 5 has dropped the pipelines of."""
    if MAJOR >= 5 and task == "question-answering":
        return Reading(source)
    if MAJOR >= 5 and task.startswith(("summarization", "translation", "text2text-generation")):
        return Writing(task, source)
    return transformers.pipeline(task, source, device="cpu", **options)


def generation_settings(theirs) -> dict:
    """The settings that a pipeline of transformers generates with, unless a call names others."""
    if MAJOR < 5:
        return theirs.generation_config.to_dict()
    # The pipeline's own come with every call there, and those of sampling with one that samples; None is off.
    settings = theirs.model._prepare_generation_config(None, **theirs._prepare_generate_kwargs({}))[0].to_dict()
    sampled = theirs._prepare_generate_kwargs({"do_sample": True})
    off = {"renormalize_logits": bool(settings["renormalize_logits"])}
    return settings | off | {"temperature": sampled.get("temperature", settings["temperature"])}


@cache
def both(task: str, source: Path, bundle: Path):
    """(ours, transformers') for one checkpoint and the bundle made of it."""
    return pipeline(task, bundle, precision="fp32"), transformers_pipeline(task, str(source))
