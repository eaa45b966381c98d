"""Loading: what is taken, what is refused and with which words, and tokenizers that bring slow files only."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers

from helpers.families import byte_pairs, family
from untorch.errors import TaskError, UntorchError
from untorch_export.bundle import assets
from untorch_export.checkpoint.load import load
from untorch_export.errors import ExportError


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return family(tmp_path_factory.mktemp("classifier"), "Bert")


@pytest.fixture
def copy(classifier, tmp_path):
    return shutil.copytree(classifier, tmp_path / "copy")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_task_comes_from_the_architecture(copy):
    assert load(copy).task.name == "text-classification"
    assert load(copy, task="sentiment-analysis").task.name == "text-classification"
    assert load(copy, task="feature-extraction").task.name == "feature-extraction"


def test_unknown_tasks_are_named(copy):
    with pytest.raises(TaskError, match="no task 'poetry'; it knows text-classification"):
        load(copy, task="poetry")
    edit(copy, architectures=["BertForNextSentencePrediction"])
    with pytest.raises(TaskError, match=r"BertForNextSentencePrediction.*--task"):
        load(copy)


def test_half_precision_weights_are_loaded_as_fp32(copy):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(copy)
    model.half().save_pretrained(copy)
    assert {parameter.dtype for parameter in load(copy).model.parameters()} == {torch.float32}


def test_a_head_that_was_never_trained_is_refused(copy):
    with pytest.raises(ExportError, match=r"no weights for qa_outputs.bias, qa_outputs.weight.*--task"):
        load(copy, task="question-answering")
    assert load(copy, task="question-answering", random_init=True).task.name == "question-answering"


def test_config_without_weights_names_random_init(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="--random-init"):
        load(copy)


def test_pickle_is_read_only_when_allowed(copy):
    state = transformers.AutoModelForSequenceClassification.from_pretrained(copy).state_dict()
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    with pytest.raises(ExportError, match="--allow-pickle"):
        load(copy)
    assert load(copy, allow_pickle=True).source["weights"].keys() == {"pytorch_model.bin"}


def test_code_of_the_checkpoint_runs_only_when_trusted(copy):
    (copy / "configuration_own.py").write_text(
        "from transformers import BertConfig\nclass OwnConfig(BertConfig):\n    model_type = 'own'\n"
    )
    edit(copy, model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    with pytest.raises(ExportError, match="--trust-remote-code"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: edit(folder, model_type="abacus"), "no model_type 'abacus'"),
        (lambda folder: edit(folder, hidden_size=64), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10" * 99), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer"),
    ],
)
def test_damaged_checkpoints(copy, change, message):
    change(copy)
    with pytest.raises(ExportError, match=message) as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_names_that_lead_nowhere(tmp_path, copy):
    with pytest.raises(ExportError, match=r"no folder /.*not the form of a Hub id"):
        load(tmp_path / "missing")
    with pytest.raises(ExportError, match="Hub could not be reached"):
        load("nobody/no-such-checkpoint")
    with pytest.raises(ExportError, match="is a file"):
        load(copy / "config.json")
    with pytest.raises(ExportError, match="no revisions"):
        load(copy, revision="main")
    assert issubclass(ExportError, UntorchError)


def test_limit_counts_the_positions_that_a_token_can_take(tmp_path):
    """RoBERTa's first positions belong to padding: 162 rows, 160 tokens."""
    loaded = load(family(tmp_path / "roberta", "Roberta"))
    assert loaded.limit == 160
    loaded.model(torch.full((1, 160), 9))
    with pytest.raises((IndexError, RuntimeError), match=r"index 162|index out of range"):
        loaded.model(torch.full((1, 161), 9))


SENTENCES = ["Hello world, this movie is great!", "naïve café — 你好 🎉", "", "a  b\tc"]


def same_tokenizer(folder, bundle):
    """The bundle's files alone, read by the plain fast class, against the checkpoint's own."""
    expected = transformers.AutoTokenizer.from_pretrained(folder)
    got = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bundle / "tokenizer.json"))
    assert got(SENTENCES)["input_ids"] == expected(SENTENCES)["input_ids"]
    saved = json.loads((bundle / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None
    config = json.loads((bundle / "tokenizer_config.json").read_text())
    assert config["pad_token"] == expected.pad_token
    assert str(folder) not in (bundle / "tokenizer_config.json").read_text()


def test_slow_byte_pair_files_are_converted(tmp_path):
    byte_pairs(tmp_path / "slow")
    assert not (tmp_path / "slow/tokenizer.json").exists()
    family(tmp_path / "slow", "Roberta")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assets.write(load(tmp_path / "slow"), bundle)
    same_tokenizer(tmp_path / "slow", bundle)


@pytest.mark.parametrize(
    ("name", "config"),
    [("bert-base-cased", {"model_type": "bert", "vocab_size": 28996}), ("albert", {"model_type": "albert"})],
)
def test_real_slow_vocabularies_are_converted(shared, tmp_path, name, config):
    folder = shutil.copytree(shared / "tokenizers" / name, tmp_path / name)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    (folder / "config.json").write_text(json.dumps({**config, **small}))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assets.write(load(folder, random_init=True), bundle)
    same_tokenizer(folder, bundle)


def test_truncation_left_in_a_tokenizer_file_is_not_passed_on(copy, tmp_path):
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assets.write(load(copy), bundle)
    assert json.loads((bundle / "tokenizer.json").read_text())["truncation"] is None


def test_pooling_files_travel_and_unknown_modules_are_refused(tmp_path):
    folder = family(tmp_path / "sentences", "Bert", "Model")
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    loaded = load(folder)
    assert loaded.task.name == "sentence-embeddings"
    assets.write(loaded, bundle)
    assert (bundle / "1_Pooling/config.json").read_text() == '{"pooling_mode_mean_tokens": true}'
    assert json.loads((bundle / "modules.json").read_text()) == modules
    modules[2]["type"] = "sentence_transformers.models.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ExportError, match="Dense"):
        assets.write(loaded, bundle)
