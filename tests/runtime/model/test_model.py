from __future__ import annotations

import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from untorch import (
    AutoModel,
    AutoModelForSequenceClassification,
    BundleError,
    DeviceError,
    InputError,
    SequenceTooLongError,
    TaskError,
)
from untorch.ort.cuda import packing

IDS = [[2, 10, 11, 12, 3], [2, 20, 3, 0, 0]]
MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return AutoModelForSequenceClassification.from_pretrained(tiny_bundle, precision="fp32")


@pytest.fixture(scope="module")
def reference(tiny_checkpoint):
    return transformers.AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint)


def logits(reference, **inputs):
    with torch.no_grad():
        return reference(**{name: torch.tensor(value) for name, value in inputs.items()}).logits.numpy()


def test_keywords_and_one_positional_array(model, reference):
    expected = logits(reference, input_ids=IDS, attention_mask=MASK)
    np.testing.assert_allclose(model(input_ids=IDS, attention_mask=MASK).logits, expected, atol=1e-4)
    np.testing.assert_allclose(model(IDS[:1])[0], logits(reference, input_ids=IDS[:1]), atol=1e-4)
    np.testing.assert_allclose(model(np.array(IDS[:1], np.int32))[0], logits(reference, input_ids=IDS[:1]), atol=1e-4)


def test_token_types_are_used(model, reference):
    types = [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    expected = logits(reference, input_ids=IDS, attention_mask=MASK, token_type_ids=types)
    ours = model(input_ids=IDS, attention_mask=MASK, token_type_ids=types).logits
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_outputs_read_three_ways(model, tiny_bundle):
    outputs = model(IDS, MASK)
    assert outputs.logits is outputs["logits"] is outputs[0]
    assert outputs.to_tuple()[0] is outputs[:1][0]
    assert repr(outputs).startswith("SequenceClassifierOutput(logits=array(")
    with pytest.raises(AttributeError, match="it has logits"):
        outputs.hidden
    states = AutoModel.from_pretrained(tiny_bundle, precision="fp32")(IDS, MASK)
    assert states.last_hidden_state.shape == (2, 5, 32)
    assert repr(states).startswith("BaseModelOutput(last_hidden_state=")


def test_hidden_states_are_those_of_the_model_under_the_head(tiny, reference):
    states = AutoModel.from_pretrained(tiny[1], precision="fp32")(IDS, MASK).last_hidden_state
    with torch.no_grad():
        expected = reference.base_model(torch.tensor(IDS), torch.tensor(MASK)).last_hidden_state.numpy()
    np.testing.assert_allclose(states, expected, atol=1e-4)


def test_config(model):
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert model.config.num_labels == 2
    assert model.config.hidden_size == 32
    with pytest.raises(AttributeError, match="colour"):
        model.config.colour


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"input_ids": [2, 10, 3]}, InputError, r"batch axis is missing.*model\(\[ids\]\)"),
        ({"input_ids": [[2, 10, 3], [2, 3]]}, InputError, "ragged.*padding=True"),
        ({"input_ids": [[2, 10_000, 3]]}, InputError, "10000, outside the model's vocabulary"),
        ({"input_ids": [[2, -1, 3]]}, InputError, "-1, outside"),
        ({"input_ids": [[2.0, 3.0]]}, InputError, "whole numbers"),
        ({"input_ids": [["hello"]]}, InputError, "whole numbers"),
        ({"input_ids": [[]]}, InputError, "no token"),
        ({"input_ids": []}, InputError, "no token"),
        ({"input_ids": [[[2, 3]]]}, InputError, "3 axes"),
        ({"input_ids": [[2, 3]], "attention_mask": [[1]]}, InputError, "must be equal"),
        ({"attention_mask": [[1]]}, InputError, "input_ids are missing"),
        ({"input_ids": [[2] * 65]}, SequenceTooLongError, "65 tokens.*at most 64.*truncation=True.*windows"),
    ],
)
def test_bad_input_is_refused_before_onnxruntime(model, inputs, error, message):
    with pytest.raises(error, match=message):
        model(**inputs)


def test_padding_without_a_mask_warns(model):
    with pytest.warns(UserWarning, match="no attention_mask"):
        model(IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(IDS, MASK)
        model(IDS[:1])


def test_a_masked_row_equals_the_row_alone(model):
    together = model(IDS, MASK).logits
    np.testing.assert_allclose(together[1], model([IDS[1][:3]]).logits[0], atol=1e-5)


def test_auto_takes_a_variant_that_passed_its_gate(tiny_bundle, tmp_path):
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    for verdict, expected in [("close", "int8"), ("exact", "int8"), ("failed", "fp32"), ("unverified", "fp32")]:
        manifest = json.loads((folder / "untorch.json").read_text())
        manifest["variants"]["int8"]["verdict"] = verdict
        (folder / "untorch.json").write_text(json.dumps(manifest))
        assert AutoModelForSequenceClassification.from_pretrained(folder).precision == expected


def test_precision_and_device_that_cannot_be_had(tiny_bundle):
    with pytest.raises(BundleError, match="no fp16 variant; it has fp32, int8"):
        AutoModel.from_pretrained(tiny_bundle, precision="fp16")
    with pytest.raises(DeviceError, match="unknown device 'tpu'"):
        AutoModel.from_pretrained(tiny_bundle, device="tpu")


def test_a_missing_head_is_named(make_bundle):
    from helpers.checkpoints import small_bert

    _, bundle = make_bundle("states", lambda folder: small_bert(folder, "BertModel"), precisions=["fp32"])
    with pytest.raises(TaskError, match="needs a classification head"):
        AutoModelForSequenceClassification.from_pretrained(bundle)


def test_a_file_that_is_no_graph_is_a_bundle_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="not an ONNX model"):
        AutoModel.from_pretrained(tmp_path)


def test_padding_is_removed_where_it_pays_and_can_be(frozen_bundle):
    """The packed session itself needs a card; which batches go there does not."""
    model = AutoModelForSequenceClassification.from_pretrained(frozen_bundle, device="cpu", precision="fp32")
    packed, seen = np.full((64, 2), 7.0), []
    ids, *_ = model.session.inputs
    model.packed = SimpleNamespace(
        inputs=(ids._replace(dtype="int32"), *packing.INDICES),
        run=lambda feeds, names: [seen.append(feeds), packed][1:],
    )
    mask = np.zeros((64, 64), np.int64)
    mask[:, :20] = 1
    feeds = {**{tensor.name: np.ones_like(mask) for tensor in model.session.inputs}, "attention_mask": mask}
    assert model.forward(feeds)[0] is packed
    (fed,) = seen
    assert ids.name == "input_ids"
    assert list(fed) == ["input_ids", *packing.indices(mask)]
    assert fed["packing.tokens"].size == mask.sum()
    assert {array.dtype for array in fed.values()} == {np.dtype("int32")}
    for untouched in (
        {name: array[:2, :9] for name, array in feeds.items()},  # few tokens
        {**feeds, "attention_mask": mask[:, ::-1]},  # rows begin with padding
        {**feeds, "attention_mask": np.ones_like(mask)},
    ):
        assert model.forward(untouched)[0].shape == (len(untouched["input_ids"]), 2)
    assert len(seen) == 1


def test_warming_up_changes_no_answer(frozen_bundle):
    model = AutoModelForSequenceClassification.from_pretrained(frozen_bundle, device="cpu", precision="fp32")
    before = model([[2, 10, 3]], attention_mask=[[1, 1, 1]]).logits
    model.warmup()
    assert np.array_equal(model([[2, 10, 3]], attention_mask=[[1, 1, 1]]).logits, before)
