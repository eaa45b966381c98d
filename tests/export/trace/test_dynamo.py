"""The tracer for transformers 5: which operators a graph has, under which names, and what it keeps to itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers

from untorch.ort.session import Session
from untorch_export.checkpoint.tasks import TASKS
from untorch_export.errors import ExportError
from untorch_export.trace import trace, transformers_5

pytestmark = [
    pytest.mark.skipif(not transformers_5(), reason="transformers 4.57 is traced by Optimum"),
    pytest.mark.filterwarnings("ignore"),
]

SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL["intermediate_size"] = 64
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BART = {
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_start_token_id": 2,
}


def traced(model, task: str, folder: Path) -> dict[str, Path]:
    return trace(model.eval(), TASKS[task], folder)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def axes(tensors) -> dict[str, tuple[str | int, ...]]:
    return {tensor.name: tensor.axes for tensor in tensors}


def ragged(rows: int, length: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    mask = (np.arange(length) < np.maximum(1, length - np.arange(rows))[:, None]).astype(np.int64)
    return {"input_ids": generator.integers(3, 300, (rows, length)) * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, initializer_range=0.3))
    return model, traced(model, "text-classification", tmp_path_factory.mktemp("bert"))["model"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **SMALL, **IDS, num_key_value_heads=2, initializer_range=0.3, tie_word_embeddings=True
    )
    model = transformers.LlamaForCausalLM(config)
    return model, traced(model, "text-generation", tmp_path_factory.mktemp("llama"))["model"]


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**BART, **IDS, init_std=0.3))
    return model, traced(model, "summarization", tmp_path_factory.mktemp("bart"))


def test_layers_stay_operators_of_their_own(bert):
    counts = operators(bert[1])
    assert (counts["Attention"], counts["Gelu"], counts["LayerNormalization"]) == (2, 2, 5)
    assert not counts["Softmax"]
    assert not counts["If"]


def test_inputs_outputs_and_axes_have_the_bundles_names(bert):
    session = Session(bert[1], device="cpu")
    text = ("batch", "sequence")
    assert axes(session.inputs) == {"input_ids": text, "attention_mask": text, "token_type_ids": text}
    assert axes(session.outputs) == {"logits": ("batch", 2), "last_hidden_state": (*text, 32)}


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 64), (3, 100)])
def test_any_size_with_padding_answers_as_pytorch_does(bert, shape):
    model, path = bert
    inputs = ragged(*shape)
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()
    (logits,) = Session(path, device="cpu").run(inputs, ["logits"])
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_same_model_gives_the_same_bytes_without_a_trace_of_this_machine(bert, tmp_path):
    model, path = bert
    again = traced(model, "text-classification", tmp_path)["model"]
    assert again.read_bytes() == path.read_bytes()
    assert again.with_name("model.onnx_data").read_bytes() == path.with_name("model.onnx_data").read_bytes()
    for word in (b"site-packages", b"modeling_bert.py", b"stack_trace", str(Path(torch.__file__).parent).encode()):
        assert word not in path.read_bytes()


def test_an_input_that_the_model_ignores_is_none_of_the_graph(tmp_path):
    model = transformers.DistilBertModel(
        transformers.DistilBertConfig(vocab_size=300, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
    )
    session = Session(traced(model, "feature-extraction", tmp_path)["model"], device="cpu")
    assert {tensor.name for tensor in session.inputs} == {"input_ids", "attention_mask"}


def test_a_decoder_is_one_graph_whose_cache_may_be_empty(llama):
    session = Session(llama[1], device="cpu")
    total, text = "past_sequence + sequence", ("batch", "sequence")
    cache = {f"past_key_values.{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")}
    found = axes(session.inputs)
    assert {name: found.pop(name) for name in cache} == dict.fromkeys(cache, ("batch", 2, "past_sequence", 8))
    assert found == {"input_ids": text, "attention_mask": ("batch", total), "position_ids": text}
    assert not operators(llama[1])["If"]
    # Keys are not repeated for the heads that share them.
    assert (operators(llama[1])["Attention"], operators(llama[1])["RotaryEmbedding"]) == (2, 4)


def test_a_tied_output_layer_is_stored_once(llama):
    model, path = llama
    weights = sum(parameter.numel() for parameter in model.parameters())  # the tied matrix counts once
    assert path.with_name("model.onnx_data").stat().st_size < 4 * weights + 4096


def test_an_encoder_gives_the_keys_that_its_decoder_looks_at(bart):
    sessions = {role: Session(path, device="cpu") for role, path in bart[1].items()}
    cross = {f"{index}.encoder.{kind}" for index in (0, 1) for kind in ("key", "value")}
    given = axes(sessions["encoder"].outputs)
    assert given.pop("last_hidden_state") == ("batch", "encoder_sequence", 32)
    assert given == {f"present.{name}": ("batch", 4, "encoder_sequence", 8) for name in cross}
    taken = axes(sessions["decoder"].inputs)
    assert {f"past_key_values.{name}" for name in cross} < set(taken)
    assert "encoder_hidden_states" not in taken
    assert not any(operators(path)["If"] for path in bart[1].values())
    assert sum(operators(path)["Attention"] for path in bart[1].values()) == 6


def test_encoder_and_decoder_share_what_both_read(bart):
    model, paths = bart
    files = paths["encoder"].parent.glob("*_data")
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert sum(path.stat().st_size for path in files) < 4 * weights + 8192


def test_a_state_that_is_no_cache_of_keys_is_refused_by_name(tmp_path):
    config = transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ExportError, match=r"MambaForCausalLM cannot be exported to generate: .*state"):
        traced(transformers.MambaForCausalLM(config), "text-generation", tmp_path)
