"""What is no checkpoint of a text model is refused by what it is; so is a setting that would be passed over."""

from __future__ import annotations

import inspect
import json
import shutil

import pytest
import torch
import transformers
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from helpers.checkpoints import small_bert
from untorch.errors import TaskError, UntorchError
from untorch_export.bundle import assets
from untorch_export.checkpoint import newer, sentences, vocabulary
from untorch_export.checkpoint.load import load
from untorch_export.errors import ExportError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_bert(tmp_path_factory.mktemp("refused"), head="BertModel")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def edit(path, **changes):
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**content, **changes}))


def refusal(folder, **arguments):
    with pytest.raises(UntorchError) as caught:
        assets.check(load(folder, **arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_is_told_to_be_merged(folder, alone):
    edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="someone/base")
    if alone:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").unlink()
    said = refusal(folder)
    assert "adapter (LORA, its base is base)" in said
    assert "merge" in said
    assert "random-init" not in said


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ],
)
def test_quantized_weights_are_named_by_their_method(folder, settings, named):
    edit(folder / "config.json", quantization_config=settings)
    assert f"quantized weights ({named})" in refusal(folder)


def test_gguf_alone_says_how_to_convert_it(folder):
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    assert "gguf_file='model-q4.gguf'" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "reads"),
    [
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, "images"),
        ({"model_type": "vit"}, "images"),
        ({"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}, "speech"),
        ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}, "speech"),
        ({"model_type": "clip", "architectures": ["CLIPModel"], "vision_config": {"hidden_size": 8}}, "images"),
        (
            {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "vision_config": {"a": 1}},
            "images",
        ),
        ({"model_type": "clap", "architectures": ["ClapModel"], "audio_config": {"hidden_size": 8}}, "audio"),
    ],
)
@pytest.mark.parametrize("task", [None, "feature-extraction"])
def test_models_of_other_inputs_are_told_that_untorch_does_text(folder, config, reads, task):
    (folder / "config.json").write_text(json.dumps(config))
    said = refusal(folder, task=task)
    assert f"reads {reads}" in said
    assert "untorch does text" in said


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    before = len(tokenizer)
    tokenizer.add_tokens(["untorch", "onnx"])
    tokenizer.save_pretrained(folder)
    assert f"ids up to {before + 1}, and the model embeddings for {before} ids" in refusal(folder)


@pytest.mark.parametrize("named", ["SparseEncoder", "MultiVectorEncoder", "something new"])
def test_other_classes_of_sentence_transformers_are_named(folder, named):
    edit(folder / "config_sentence_transformers.json", model_type=named)
    assert f"is a {named} of sentence-transformers" in refusal(folder)
    assert load(folder, task="feature-extraction").task.name == "feature-extraction"


def test_a_sparse_encoder_is_known_by_its_modules(folder):
    kind = "sentence_transformers.sparse_encoder.models"
    modules = [{"type": f"{kind}.MLMTransformer", "path": ""}, {"type": f"{kind}.SpladePooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(TaskError, match="SparseEncoder"):
        load(folder)


def sentence_transformer(folder, **pooling):
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    edit(
        folder / "1_Pooling/config.json",
        **{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, **pooling},
    )
    return folder


def test_every_setting_of_a_sentence_transformer_is_read_or_refused(folder):
    """All that the library takes from `sentence_bert_config.json`, each with a value that asks for something."""
    from sentence_transformers.models import Transformer

    sentence_transformer(folder)
    keys = {*Transformer.config_keys, *inspect.signature(Transformer.__init__).parameters} - {"self", "kwargs"}
    keys -= {"model_name_or_path", "cache_dir", "backend"}  # where it is loaded from, and with what
    keys -= {"do_lower_case"}  # nothing to this tokenizer, which lowers everything
    known = {"max_seq_length", "unpad_inputs"}
    assert known < keys
    for key in sorted(keys):
        (folder / sentences.TRANSFORMER).write_text(json.dumps({key: 8 if key in known else "asked"}))
        if key in known:
            assets.check(load(folder))
        else:
            assert f"sets {key} to 'asked'" in refusal(folder)


@pytest.mark.parametrize("file", [sentences.CONFIG, sentences.TRANSFORMER, "1_Pooling/config.json"])
def test_a_key_that_untorch_does_not_know_is_refused_by_name(folder, file):
    sentence_transformer(folder)
    edit(folder / file, brand_new_key=3)
    assert "sets brand_new_key to 3" in refusal(folder)
    edit(folder / file, brand_new_key=None)
    assets.check(load(folder))


def test_lower_casing_matters_only_where_the_tokenizer_keeps_capitals(folder, tmp_path):
    sentence_transformer(folder)
    edit(folder / sentences.TRANSFORMER, do_lower_case=True)
    assets.check(load(folder))  # its tokenizer lowers everything
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit(folder / "tokenizer_config.json", do_lower_case=False, tokenizer_class="PreTrainedTokenizerFast")
    assert "sets do_lower_case to True" in refusal(folder)


def test_every_class_of_tokenizer_is_found_by_the_files_it_names(tmp_path):
    """Whatever a family calls its vocabulary, the export looks for it."""
    seen = set()
    for kind, pair in TOKENIZER_MAPPING_NAMES.items():
        wanted = set()
        for name in filter(None, [pair] if isinstance(pair, str) else pair or ()):
            try:
                found = tokenizer_class_from_name(name)
            except ImportError:
                continue
            wanted.update((getattr(found, "vocab_files_names", None) or {}).values())
        assert wanted <= vocabulary.files_of(tmp_path, {"model_type": kind}), kind
        seen |= wanted
    assert {"spm.model", "spiece.model", "vocab.txt", "sentencepiece.bpe.model", "prophetnet.tokenizer"} <= seen


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x0a\x00"])
def test_a_vocabulary_that_cannot_be_read_is_an_error(folder, content):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    edit(folder / "config.json", model_type="deberta-v2")
    (folder / "spm.model").write_bytes(content)
    assert "the tokenizer" in refusal(folder, random_init=True)


class TestConfigsOfANewerTransformers:
    known = newer.defaults(transformers.LlamaConfig)

    def read(self, tmp_path, kind=transformers.LlamaConfig, version="99.1.0", **raw):
        config = {"model_type": kind.model_type, "transformers_version": version, **raw}
        return newer.understood(tmp_path, config, newer.defaults(kind))

    @pytest.mark.skipif("rope_parameters" in known, reason="this transformers knows rope_parameters")
    @pytest.mark.parametrize(
        ("rope", "expected"),
        [
            ({"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5}),
            (
                {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0},
                {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            ),
        ],
    )
    def test_rotary_parameters_are_put_into_older_words(self, tmp_path, rope, expected):
        read = self.read(tmp_path, rope_parameters=rope)
        assert {key: read[key] for key in expected} == expected
        assert "rope_parameters" not in read

    @pytest.mark.skipif("rope_parameters" in known, reason="this transformers knows rope_parameters")
    @pytest.mark.parametrize(
        "rope", [{"rope_type": "proportional", "rope_theta": 1.0}, {"full_attention": {"rope_theta": 1}}]
    )
    def test_rotary_parameters_without_older_words_are_refused(self, tmp_path, rope):
        with pytest.raises(ExportError, match=r"written by transformers 99.1.0.*rope_parameters; upgrade"):
            self.read(tmp_path, rope_parameters=rope)

    def test_an_unknown_key_is_refused_by_name(self, tmp_path):
        with pytest.raises(ExportError, match="does not know its gate_of_tomorrow"):
            self.read(tmp_path, gate_of_tomorrow=True)
        assert "gate_of_tomorrow" in self.read(tmp_path, version=transformers.__version__, gate_of_tomorrow=True)

    def test_all_that_this_version_writes_is_known_to_it(self, tmp_path):
        for kind in (
            transformers.BertConfig,
            transformers.GPT2Config,
            transformers.T5Config,
            transformers.ModernBertConfig,
        ):
            written = json.loads(kind().to_json_string(use_diff=False)) | {"transformers_version": "99.0.0"}
            assert newer.understood(tmp_path, written, newer.defaults(kind)) == written


def test_the_base_of_a_newer_file_reaches_the_model(tmp_path):
    if "rope_parameters" in newer.defaults(transformers.LlamaConfig):
        pytest.skip("this transformers knows rope_parameters")
    small = {
        "vocab_size": 90,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, rope_theta=5e5)).eval()
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rope_theta"]
    values |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "transformers_version": "99.0.0"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    ids = torch.arange(60)[None]
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path).model(ids).logits, model(ids).logits)
