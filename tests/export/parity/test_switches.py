"""Models that change with a text's length: on both sides of the change an answer is PyTorch's, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

import untorch
from untorch_export.checkpoint.switches import switches
from untorch_export.errors import ExportError
from untorch_export.export import export

SMALL = {
    "vocab_size": 90,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 256}
T5 = {
    "vocab_size": 90,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
SWITCH = 24
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
MARKS = {"bos_token_id": 1, "eos_token_id": 2}
# What changes → the class, its config, where that is, in tokens.
MODELS = {
    "longrope": (
        "Phi3Model",
        {**GROUPED, **MARKS, "original_max_position_embeddings": SWITCH, "rope_scaling": LONGROPE},
        SWITCH,
    ),
    "dynamic": ("LlamaModel", {**GROUPED, "max_position_embeddings": SWITCH, "rope_scaling": DYNAMIC}, SWITCH),
    "sliding window of Mistral": ("MistralModel", {**GROUPED, "sliding_window": SWITCH}, SWITCH),
    "sliding window of Qwen2": (
        "Qwen2Model",
        {**GROUPED, "use_sliding_window": True, "sliding_window": SWITCH, "max_window_layers": 0},
        SWITCH,
    ),
    "local attention of ModernBERT": (
        "ModernBertModel",
        {
            **SMALL,
            **MARKS,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "local_attention": 2 * SWITCH,
            "global_attn_every_n_layers": 2,
            "max_position_embeddings": 256,
        },
        SWITCH,
    ),
    "block-sparse attention of BigBird": (
        "BigBirdModel",
        {
            **SMALL,
            "attention_type": "block_sparse",
            "block_size": 4,
            "num_random_blocks": 1,
            "max_position_embeddings": 128,
        },
        28,
    ),
    "windows of Longformer": (
        "LongformerModel",
        {**SMALL, "attention_window": SWITCH, "max_position_embeddings": 130, "pad_token_id": 1},
        SWITCH,
    ),
    "local attention of LongT5": ("LongT5EncoderModel", {**T5, "local_radius": SWITCH}, SWITCH),
    "transient-global attention of LongT5": (
        "LongT5EncoderModel",
        {**T5, "local_radius": SWITCH, "global_block_size": 8, "encoder_attention_type": "transient-global"},
        SWITCH,
    ),
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("name", MODELS)
def test_both_sides_of_a_switch_are_pytorchs_or_refused(name, tmp_path):
    kind, config, switch = MODELS[name]
    torch.manual_seed(0)
    getattr(transformers, kind)(getattr(transformers, kind).config_class(**config)).save_pretrained(tmp_path / "model")
    read = json.loads((tmp_path / "model/config.json").read_text())
    full = getattr(transformers, kind).config_class.from_dict(read).to_dict()
    assert switch in [found.length for found in switches(full)]
    try:
        export(tmp_path / "model", tmp_path / "bundle", precisions=["fp32"])
    except ExportError as error:
        words = [found.named for found in switches(full)]
        assert any(word in str(error) for word in words), error
        return
    ours = untorch.AutoModel.from_pretrained(tmp_path / "bundle")
    answered = 0
    for length in (switch - 1, switch, switch + 1, 2 * switch + 5):
        ids = np.random.default_rng(length).integers(3, 90, (1, length))
        fresh = getattr(transformers, kind).from_pretrained(tmp_path / "model").eval()
        with torch.inference_mode():
            expected = fresh(torch.tensor(ids)).last_hidden_state.numpy()
        try:
            got = ours(ids).last_hidden_state
        except untorch.UntorchError as error:
            assert length > switch, error
            assert "tokens" in str(error)
            continue
        answered += 1
        np.testing.assert_allclose(got, expected, atol=1e-3, rtol=1e-3)
    assert answered >= 2


def test_a_limit_that_the_export_set_is_in_the_bundle(tmp_path):
    from helpers.architectures import ARCHITECTURES, checkpoint

    llama = next(architecture for architecture in ARCHITECTURES if architecture.prefix == "Llama")
    source = checkpoint(tmp_path / "checkpoint", llama, "text-generation")
    values = json.loads((source / "config.json").read_text())
    values |= {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 40}
    (source / "config.json").write_text(json.dumps(values))
    export(source, tmp_path / "bundle", precisions=["fp32"])
    assert json.loads((tmp_path / "bundle/config.json").read_text())["max_sequence_length"] == 40
    assert untorch.AutoTokenizer.from_pretrained(tmp_path / "bundle").model_max_length == 40
    generate = untorch.pipeline("text-generation", tmp_path / "bundle")
    with pytest.raises(untorch.UntorchError, match="40"):
        generate("a b c d e f g h i j k l m n o p", max_new_tokens=40, do_sample=False)


def test_a_window_that_is_switched_off_is_no_switch():
    assert switches({"sliding_window": 32, "use_sliding_window": False}) == []
    assert switches({"sliding_window": None, "rope_scaling": None}) == []
    assert [item.length for item in switches({"sliding_window": 32, "attention_window": [16, 64]})] == [32, 64]
