"""Heads on decoders and encoder-decoders: where a text ends, and what is said where a model cannot be exported."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from helpers.architectures import ARCHITECTURES, checkpoint
from helpers.comparing import same
from untorch import AutoModel, AutoModelForQuestionAnswering, AutoTokenizer, pipeline
from untorch_export.errors import ExportError
from untorch_export.export import export
from untorch_export.graph import fusion

TEXTS = ["hello people, this city is a good movie!", "a", "I love it. " * 5, "Ça va, 世界? not bad"]
BY_PREFIX = {architecture.prefix: architecture for architecture in ARCHITECTURES}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def classifier(folder, prefix: str, **config):
    """A random classifier; `config` replaces values of its config.json, and None removes them."""
    source = checkpoint(folder, BY_PREFIX[prefix], "text-classification")
    values = json.loads((source / "config.json").read_text()) | config
    (source / "config.json").write_text(json.dumps({key: v for key, v in values.items() if v is not None}))
    return source


def test_a_decoder_finds_the_end_of_a_text_without_pad_token_id(tmp_path):
    """transformers then answers texts one by one only; here batches answer the same."""
    source = classifier(tmp_path / "checkpoint", "Llama", pad_token_id=None)
    export(source, tmp_path / "bundle", precisions=["fp32"])
    ours = pipeline(None, tmp_path / "bundle", precision="fp32")
    theirs = transformers.pipeline("text-classification", str(source), device="cpu")
    assert theirs.model.config.pad_token_id is None
    same(ours(TEXTS, top_k=None, batch_size=4), theirs(TEXTS, top_k=None))


def test_padding_is_what_the_model_takes_for_padding(tmp_path):
    source = classifier(tmp_path / "checkpoint", "GPT2", pad_token_id=2)  # the tokenizer pads with 0
    export(source, tmp_path / "bundle", precisions=["fp32"])
    assert AutoTokenizer.from_pretrained(tmp_path / "bundle").pad_token_id == 2
    ours = pipeline(None, tmp_path / "bundle", precision="fp32")
    theirs = transformers.pipeline("text-classification", str(source), device="cpu")
    same(ours(TEXTS, top_k=None, batch_size=4), theirs(TEXTS, top_k=None))


def test_a_decoder_without_any_token_to_pad_with_says_so(tmp_path):
    source = classifier(tmp_path / "checkpoint", "Qwen2", pad_token_id=None)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(source)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(source)
    with pytest.raises(ExportError, match=r"config\.json \(pad_token_id\).*Qwen2ForSequenceClassification"):
        export(source, tmp_path / "bundle", precisions=["fp32"])


@pytest.mark.parametrize("prefix", ["Bart", "T5"])
def test_a_text_that_spells_out_eos_leaves_its_batch_whole(tmp_path, prefix):
    source = classifier(tmp_path / "checkpoint", prefix)
    export(source, tmp_path / "bundle", precisions=["fp32"])
    texts = [*TEXTS, "hello </s> people", "</s></s>", ""]
    ours = pipeline(None, tmp_path / "bundle", precision="fp32")
    theirs = transformers.pipeline("text-classification", str(source), device="cpu")
    same(ours(texts, top_k=None, batch_size=7), theirs(texts, top_k=None))


@pytest.mark.parametrize("prefix", ["GPT2", "Qwen2", "Bart"])
def test_queries_that_attend_to_nothing_do_not_spoil_the_others(tmp_path, prefix):
    """With padding on the left, a padding token of a decoder sees padding only: fused, its row must not become NaN."""
    source = checkpoint(tmp_path / "checkpoint", BY_PREFIX[prefix], "question-answering")
    export(source, tmp_path / "bundle", keep_failed=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bundle", padding_side="left")
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "bundle", precision="int8")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="np")
    reference = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "bundle", precision="fp32")
    real = inputs["attention_mask"].astype(bool)
    expected, got = reference(**inputs).start_logits, model(**inputs).start_logits
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[real], expected[real], atol=1)


def test_an_encoder_alone(tmp_path):
    """Of T5 the encoder is a checkpoint of its own; the whole model wants a text for its decoder, too."""
    source = checkpoint(tmp_path / "encoder", BY_PREFIX["T5"], "feature-extraction")
    export(source, tmp_path / "bundle", precisions=["fp32"])
    model = transformers.T5EncoderModel.from_pretrained(source)
    inputs = transformers.AutoTokenizer.from_pretrained(source)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
    ours = AutoModel.from_pretrained(tmp_path / "bundle")(**{name: array.numpy() for name, array in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(ours.last_hidden_state), expected, atol=1e-4, rtol=1e-4)
    config = transformers.AutoConfig.from_pretrained(source, is_encoder_decoder=True)
    transformers.T5Model(config).save_pretrained(tmp_path / "whole")
    with pytest.raises(ExportError, match=r"T5Model cannot be converted to ONNX: .*decoder_input_ids"):
        export(tmp_path / "whole", tmp_path / "other", precisions=["fp32"])


def test_choices_that_are_counted_while_tracing_are_named(tmp_path):
    source = checkpoint(tmp_path / "checkpoint", BY_PREFIX["Longformer"], "multiple-choice")
    with pytest.raises(ExportError, match=r"LongformerForMultipleChoice.*_compute_global_attention_mask"):
        export(source, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("step", ["fuse", "layers"])
def test_whatever_fails_is_an_export_error_that_names_the_cause(tmp_path, monkeypatch, step):
    def fail(*arguments, **keywords):
        raise IndexError("operator Foo: index -1 is out of bounds\nand more")

    monkeypatch.setattr(fusion, step, fail)
    source = classifier(tmp_path / "checkpoint", "Bert")
    named = "BertForSequenceClassification cannot be exported for text-classification: IndexError: operator Foo"
    with pytest.raises(ExportError, match=named):
        export(source, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
