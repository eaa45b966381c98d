"""A small pipeline for every task, whose graph is made on the spot: for what needs answers of a form, not good ones."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from helpers.paths import BUNDLE_V1
from untorch import pipeline
from untorch.pipelines import TASKS

_WORDS = 207  # those of the frozen bundle's tokenizer
_SIZE = 6
# Removed when the process ends.
_FOLDER = TemporaryDirectory(prefix="untorch-tasks-")

# An input of each task, and another, as a caller gives it alone.
INPUTS = {
    "text-classification": ("hello world", "I hate this so much!"),
    "feature-extraction": ("hello world", "I hate this so much!"),
    "sentence-embeddings": ("hello world", "I hate this so much!"),
    "token-classification": ("hello world", "I hate this so much!"),
    "question-answering": (
        {"question": "what is great", "context": "this movie is great and that film was awful"},
        {"question": "who", "context": "people lives in a city"},
    ),
    "fill-mask": ("hello [MASK]", "a [MASK] and [MASK]"),
    "zero-shot-classification": ("this movie is great", "a city"),
    "multiple-choice": (
        {"text": "this movie", "choices": ["is good", "is bad", "lives"]},
        {"text": "a city", "choices": ["is good", "is bad"]},
    ),
    "text-ranking": ({"query": "hello", "passages": ["a city", "hello"]}, {"query": "movie", "passages": ["film"]}),
    "text-generation": ("hello world", "I hate this"),
    "text2text-generation": ("hello world", "I hate this"),
    "summarization": ("hello world", "I hate this"),
    "translation": ("hello world", "I hate this"),
}
# Arguments without which a call has no answer, or no end.
ARGUMENTS = {
    "zero-shot-classification": {"candidate_labels": ["good", "bad"]},
    "text-ranking": {"label": "entailment"},
    **{
        task: {"max_new_tokens": 4, "do_sample": False, "num_beams": 1}
        for task in ("text-generation", "text2text-generation", "summarization", "translation")
    },
}


def _value(name, *axes, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, axes)


def _graph(outputs, nodes, inputs=None, **weights):
    """A graph of token states `vectors`, looked up in a random table, and what `nodes` make of them."""
    draw = np.random.default_rng(0)
    ids = [_value("input_ids", "batch", "sequence", kind=TensorProto.INT64)] if inputs is None else inputs
    tensors = {"table": (_WORDS, _SIZE), **weights}
    tables = [
        numpy_helper.from_array(draw.normal(size=axes).astype(np.float32), name) for name, axes in tensors.items()
    ]
    # The token after the first, which no padding reaches.
    tables.append(numpy_helper.from_array(np.array(1), "second"))
    look_up = helper.make_node("Gather", ["table", "input_ids"], ["vectors"])
    graph = helper.make_graph([look_up, *nodes], "made", ids, outputs, tables)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _graphs(task):
    """Graphs of a task by the names of their files."""
    node = helper.make_node
    if task in ("text-classification", "zero-shot-classification", "text-ranking"):
        nodes = [
            node("Gather", ["vectors", "second"], ["state"], axis=1),
            node("MatMul", ["state", "head"], ["logits"]),
        ]
        return {"model": _graph([_value("logits", "batch", 2)], nodes, head=(_SIZE, 2))}
    if task in ("feature-extraction", "sentence-embeddings"):
        nodes = [node("Identity", ["vectors"], ["last_hidden_state"])]
        return {"model": _graph([_value("last_hidden_state", "batch", "sequence", _SIZE)], nodes)}
    if task == "token-classification":
        nodes = [node("MatMul", ["vectors", "head"], ["logits"])]
        return {"model": _graph([_value("logits", "batch", "sequence", 2)], nodes, head=(_SIZE, 2))}
    if task == "question-answering":
        names = ("start_logits", "end_logits")
        nodes = [node("MatMul", ["vectors", f"{name}_head"], [name]) for name in names]
        outputs = [_value(name, "batch", "sequence") for name in names]
        return {"model": _graph(outputs, nodes, **{f"{name}_head": (_SIZE,) for name in names})}
    if task == "multiple-choice":
        nodes = [
            node("Gather", ["vectors", "second"], ["state"], axis=2),
            node("ReduceMean", ["state"], ["logits"], axes=[2], keepdims=0),
        ]
        ids = [_value("input_ids", "batch", "choices", "sequence", kind=TensorProto.INT64)]
        return {"model": _graph([_value("logits", "batch", "choices")], nodes, ids)}
    scores = [_value("logits", "batch", "sequence", _WORDS)]
    if task in ("fill-mask", "text-generation"):
        return {"model": _graph(scores, [node("MatMul", ["vectors", "head"], ["logits"])], head=(_SIZE, _WORDS))}
    ids = [_value(name, "batch", "source", kind=TensorProto.INT64) for name in ("input_ids", "attention_mask")]
    encoder = _graph(
        [_value("last_hidden_state", "batch", "source", _SIZE)],
        [node("Identity", ["vectors"], ["last_hidden_state"])],
        ids,
    )
    ids = [
        _value("input_ids", "batch", "sequence", kind=TensorProto.INT64),
        _value("encoder_hidden_states", "batch", "source", _SIZE),
    ]
    nodes = [
        node("ReduceMean", ["encoder_hidden_states"], ["source"], axes=[1], keepdims=1),
        node("Add", ["vectors", "source"], ["states"]),
        node("MatMul", ["states", "head"], ["logits"]),
    ]
    return {"encoder_model": encoder, "decoder_model": _graph(scores, nodes, ids, head=(_SIZE, _WORDS))}


@cache
def small_pipeline(task, unlimited=False):
    """The pipeline of a task, kept for the process; if `unlimited`, neither config nor tokenizer states a length."""
    folder = Path(_FOLDER.name) / (f"{task}-unlimited" if unlimited else task)
    folder.mkdir()
    for name, graph in _graphs(task).items():
        onnx.save(graph, folder / f"{name}.onnx")
    labels = {0: "other", 1: "entailment"}
    config = {"model_type": "bert", "vocab_size": _WORDS, "eos_token_id": None, "decoder_start_token_id": 0}
    config |= {"hidden_size": _SIZE, "id2label": labels, "label2id": {label: index for index, label in labels.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLE_V1 / name, folder)
    if unlimited:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": int(1e30)}))
    return pipeline(task, folder, device="cpu", threads=1)


def call(task, item=..., **arguments):
    """The small pipeline's answer to one input."""
    return small_pipeline(task)(INPUTS[task][0] if item is ... else item, **{**ARGUMENTS.get(task, {}), **arguments})


assert set(INPUTS) == set(TASKS)
