"""Folders whose graphs, or the outputs in them, are called otherwise: each answers as ONNX Runtime does with the file.

The graphs are made here: a language model adds up its tokens' vectors, so that each answer depends on all of the text.
"""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.paths import BUNDLE_V1
from untorch import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Bundle,
    BundleError,
    InputError,
    TaskError,
    pipeline,
)

WORDS, SIZE = 40, 6
TEXTS = ["hello world", "I hate this so much!", ""]
IDS = np.array([[3, 8, 5, 21], [9, 9, 30, 4]])
RANDOM = np.random.default_rng(0)
TABLE = numpy_helper.from_array(RANDOM.normal(size=(WORDS, SIZE)).astype(np.float32), "table")
HEAD = numpy_helper.from_array(RANDOM.normal(size=(SIZE, WORDS)).astype(np.float32), "head")
AXIS = numpy_helper.from_array(np.array(1), "axis")


def value(name, *axes, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, axes)


def ids_of(name, sequence="sequence"):
    return value(name, "batch", sequence, kind=TensorProto.INT64)


def model(nodes, inputs, outputs, *weights):
    graph = helper.make_graph(nodes, "made", inputs, outputs, [TABLE, HEAD, AXIS, *weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def language_model(scale=1.0):
    """Next-token scores from the sum of all tokens before: no cache."""
    factor = numpy_helper.from_array(np.array(scale, np.float32), "factor")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("CumSum", ["vectors", "axis"], ["sums"]),
        helper.make_node("MatMul", ["sums", "head"], ["scores"]),
        helper.make_node("Mul", ["scores", "factor"], ["logits"]),
    ]
    return model(nodes, [ids_of("input_ids")], [value("logits", "batch", "sequence", WORDS)], factor)


def encoder(name="last_hidden_state"):
    nodes = [helper.make_node("Gather", ["table", "input_ids"], [name])]
    inputs = [ids_of("input_ids", "source"), ids_of("attention_mask", "source")]
    return model(nodes, inputs, [value(name, "batch", "source", SIZE)])


def decoder():
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("CumSum", ["vectors", "axis"], ["sums"]),
        helper.make_node("ReduceMean", ["encoder_hidden_states"], ["source"], axes=[1], keepdims=1),
        helper.make_node("Add", ["sums", "source"], ["states"]),
        helper.make_node("MatMul", ["states", "head"], ["logits"]),
    ]
    inputs = [ids_of("input_ids"), value("encoder_hidden_states", "batch", "source", SIZE)]
    return model(nodes, inputs, [value("logits", "batch", "sequence", WORDS)])


def sentences():
    """What Optimum makes of a sentence-transformers checkpoint; it pools by the largest, then halves."""
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        helper.make_node("Gather", ["table", "short_ids"], ["token_embeddings"]),
        helper.make_node("Mod", ["input_ids", "words"], ["short_ids"]),
        helper.make_node("ReduceMax", ["token_embeddings"], ["largest"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["largest", "half"], ["sentence_embedding"]),
    ]
    nodes[:2] = nodes[1::-1]  # in the order of use
    outputs = [value("token_embeddings", "batch", "sequence", SIZE), value("sentence_embedding", "batch", SIZE)]
    inputs = [ids_of("input_ids"), ids_of("attention_mask")]
    return model(nodes, inputs, outputs, half, numpy_helper.from_array(np.array(WORDS), "words"))


def save(folder, **graphs):
    """A folder of these graphs, by the names of their files, with a small config and a tokenizer."""
    (folder / "onnx").mkdir(parents=True)
    for name, graph in graphs.items():
        onnx.save(graph, folder / f"{name.replace('__', '/')}.onnx")
    config = {"model_type": "bert", "vocab_size": 1000, "eos_token_id": None, "decoder_start_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLE_V1 / name, folder)
    return folder


def reference(file, **feeds):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, feeds)


def greedy(folder, file, ids, steps, **feeds):
    """The text that a decoder graph continues `ids` with, from ONNX Runtime alone."""
    for _ in range(steps):
        logits = reference(folder / file, input_ids=ids, **feeds)[0]
        ids = np.concatenate([ids, logits[:, -1:].argmax(-1)], axis=1)
    return ids


def test_the_outputs_of_optimums_sentence_transformers(tmp_path):
    folder = save(tmp_path / "st", model=sentences())
    vectors = pipeline("sentence-embeddings", folder)
    for text in TEXTS[:2]:
        encoded = vectors.tokenizer([text], return_tensors="np")
        feeds = {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        states, pooled = reference(folder / "model.onnx", **feeds)
        np.testing.assert_allclose(vectors(text), pooled[0], atol=1e-6)
        np.testing.assert_allclose(vectors([text, text]), np.repeat(pooled, 2, 0), atol=1e-6)
        np.testing.assert_allclose(vectors(text, pooling="mean"), states[0].mean(0), atol=1e-6)
        np.testing.assert_allclose(pipeline("feature-extraction", folder)(text)[0], states[0], atol=1e-6)
        given = AutoModel.from_pretrained(folder)(**feeds)
        np.testing.assert_allclose(given.last_hidden_state, states, atol=1e-6)


def test_settings_of_sentence_transformers_come_before_what_the_graph_pools(tmp_path):
    folder = save(tmp_path / "st", model=sentences())
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    vectors = pipeline("sentence-embeddings", folder)
    encoded = vectors.tokenizer([TEXTS[0]], return_tensors="np")
    feeds = {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    np.testing.assert_allclose(vectors(TEXTS[0]), reference(folder / "model.onnx", **feeds)[0][0, 0], atol=1e-6)


@pytest.mark.parametrize(
    "file", ["model", "prefill", "onnx__model_quantized", "decoder_model", "onnx__decoder_model_merged_quantized"]
)
def test_a_language_model_without_a_cache(tmp_path, file, caplog):
    folder = save(tmp_path / "lm", **{file: language_model()})
    with caplog.at_level(logging.WARNING, "untorch"):
        ours = AutoModelForCausalLM.from_pretrained(folder)
        ids = ours.generate(IDS, max_new_tokens=5)
        ours.generate(IDS, max_new_tokens=5)
    assert [("without a key-value cache" in record.message) for record in caplog.records] == [True]
    path = f"{file.replace('__', '/')}.onnx"
    np.testing.assert_array_equal(ids, greedy(folder, path, IDS, 5))
    # A step at a time by hand, and several beams: the rows before are read again, those that trade places too.
    first = ours(IDS)
    again = ours(np.array([[7], [8]]), past_key_values=first.past_key_values)
    whole = reference(folder / path, input_ids=np.concatenate([IDS, [[7], [8]]], axis=1))[0]
    np.testing.assert_allclose(first.logits, whole[:, :-1], atol=1e-5)
    np.testing.assert_allclose(again.logits, whole[:, -1:], atol=1e-5)
    beams = ours.generate(IDS, max_new_tokens=3, num_beams=3)
    assert score(folder / path, beams) >= score(folder / path, ids[:, : beams.shape[1]]) - 1e-4


def score(file, ids):
    """The sum of the log-probabilities of what follows IDS, over all rows."""
    logits = reference(file, input_ids=ids)[0][:, IDS.shape[1] - 1 : -1]
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(chances, ids[:, IDS.shape[1] :, None], -1).sum()


@pytest.mark.parametrize("names", [("encoder_model", "decoder_model"), ("reader", "onnx__writer")])
def test_an_encoder_and_a_decoder_by_the_names_that_the_caller_gives(tmp_path, names):
    folder = save(tmp_path / "s2s", **{names[0]: encoder(), names[1]: decoder()})
    read, write = (f"{name.replace('__', '/')}.onnx" for name in names)
    named = {} if names[0] == "encoder_model" else {"encoder_file_name": read, "decoder_file_name": "writer.onnx"}
    ours = AutoModelForSeq2SeqLM.from_pretrained(folder, **named)
    states = reference(folder / read, input_ids=IDS, attention_mask=np.ones_like(IDS))[0]
    expected = greedy(folder, write, np.zeros((2, 1), np.int64), 4, encoder_hidden_states=states)
    np.testing.assert_array_equal(ours.generate(IDS, max_new_tokens=4), expected)


def test_a_named_graph_is_taken_before_model_onnx_and_brings_its_data(tmp_path):
    folder = save(tmp_path / "two", model=language_model(), mine=language_model(2.0))
    whole = onnx.load(folder / "mine.onnx")
    onnx.save(whole, folder / "mine.onnx", save_as_external_data=True, location="mine.onnx.data", size_threshold=0)
    ours = AutoModelForCausalLM.from_pretrained(folder, file_name="mine.onnx")
    assert ours.bundle.variants["mine"].graphs["model"].data == ("mine.onnx.data",)
    expected = reference(folder / "mine.onnx", input_ids=IDS)[0]
    np.testing.assert_allclose(ours(IDS).logits, expected, atol=1e-5)
    copied = Bundle(folder, {"model": "mine.onnx"}).reopen()
    assert list(copied.variants) == ["mine"]


def test_a_missing_file_is_named_with_what_is_there(tmp_path):
    folder = save(tmp_path / "lm", model_quantized=language_model(), other=language_model())
    with pytest.raises(BundleError, match=r"no file mine\.onnx.*it holds model_quantized\.onnx, other\.onnx"):
        AutoModelForCausalLM.from_pretrained(folder, file_name="mine.onnx")
    with pytest.raises(
        TaskError, match=r"no encoder graph \(looked for encoder_model\*\.onnx\).*model_quantized\.onnx"
    ):
        AutoModelForSeq2SeqLM.from_pretrained(folder)
    (folder / "model_quantized.onnx").unlink()
    with pytest.raises(BundleError, match=r"looked for model\*\.onnx, .*decoder_model\*\.onnx.*it holds other\.onnx"):
        AutoModelForCausalLM.from_pretrained(folder)
    (folder / "other.onnx").unlink()
    with pytest.raises(BundleError, match=r"it holds config\.json, tokenizer\.json, tokenizer_config\.json\. "):
        Bundle(folder)


def test_names_of_files_that_a_folder_or_a_class_has_no_place_for(tmp_path, frozen_bundle):
    with pytest.raises(BundleError, match=r"has a manifest.*precision='fp32'"):
        AutoModel.from_pretrained(frozen_bundle, file_name="onnx/model.onnx")
    with pytest.raises(InputError, match="only an encoder-decoder has one"):
        AutoModel.from_pretrained(save(tmp_path / "lm", model=language_model()), encoder_file_name="a.onnx")
    with pytest.raises(InputError, match="encoder_file_name and decoder_file_name"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "lm", file_name="a.onnx")
