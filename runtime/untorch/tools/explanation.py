"""The steps from a text to its answer, as plain data: tokens, ids, outputs of the model, probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.loading.choice import LoadRequest
from untorch.loading.sessions import open_model
from untorch.numerics import sigmoid, softmax
from untorch.ort.cuda import packing
from untorch.tokenizer import Tokenizer

_SHOWN = 6


def explain(bundle: Bundle, text: str, *, device: str = "auto", precision: str = "auto") -> dict[str, Any]:
    """Run one text through a model and return what each step gave.

    The keys are `text`, `tokens`, `input_ids`, `attention_mask`, `outputs` (a list with name, shape and first values of
    each), `model`, `precision`, `device` and, for a classification head, `probabilities` by label. With precision
    "auto" a variant that also returns the hidden state is preferred. Raises what loading and running raise.
    """
    wanted = ("last_hidden_state", "logits") if precision == "auto" else ()
    opened = open_model(bundle, LoadRequest(device, precision), wanted, ("model",))
    [session] = opened.sessions
    with bundle.held():
        config = ModelConfig.load(bundle.path)
        tokenizer = Tokenizer.from_bundle(bundle)
    encoded = tokenizer(text, return_tensors="np")
    feeds = packing.feeds(session.inputs, encoded)
    outputs = dict(zip((tensor.name for tensor in session.outputs), session.run(feeds), strict=True))
    stages: dict[str, Any] = {
        "text": text,
        "tokens": encoded.tokens(),
        "input_ids": encoded["input_ids"][0].tolist(),
        "attention_mask": encoded["attention_mask"][0].tolist(),
        "outputs": [_summary(name, outputs[name]) for name in sorted(outputs, key="logits".__eq__)],
        "model": str(bundle.path),
        "precision": opened.variant.precision,
        "device": session.device,
    }
    logits = outputs.get("logits")
    if logits is not None and logits.ndim == 2:
        single = config.num_labels > 1 and config.problem_type != "multi_label_classification"
        if config.problem_type != "regression":
            scores = (softmax if single else sigmoid)(logits)[0].tolist()
            stages["probabilities"] = dict(zip(config.labels(len(scores)), scores, strict=True))
    return stages


def _summary(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    values = array.reshape(-1)
    return {
        "name": name,
        "shape": list(array.shape),
        "first": values[:_SHOWN].tolist(),
        "cut": values.size > _SHOWN,
    }
