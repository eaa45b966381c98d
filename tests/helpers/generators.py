"""Small random checkpoints of models that generate, with their tokenizers."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer, Tokenizer

from helpers.checkpoints import WORDS

CAUSAL = ("GPT2", "Llama", "Qwen2")
SEQ2SEQ = ("T5", "Bart", "Marian")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] | trim + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "init_std": 0.3,
}
_CONFIGS = {
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3},
    "Llama": {**_LLAMA, "initializer_range": 0.3},
    "Qwen2": {**_LLAMA, "initializer_range": 0.3},
    "T5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 2.0},
    "Bart": _BART,
    "Marian": _BART,
}
_CLASSES = {
    "GPT2": "GPT2LMHeadModel",
    "T5": "T5ForConditionalGeneration",
    "Bart": "BartForConditionalGeneration",
    "Marian": "MarianMTModel",
}


def byte_level(folder: Path, **settings) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows any text, saved into `folder`; pad, bos and eos are ids 0, 1 and 2."""
    trained = ByteLevelBPETokenizer()
    special = ["<pad>", "<s>", "</s>", "<|start|>", "<|end|>"]
    trained.train_from_iterator([WORDS], vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained.to_str()),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|start|>", "<|end|>"],
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=128,
        **settings,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def many_languages(folder: Path) -> Path:
    """A random mBART, whose tokenizer puts a language's token with every text, saved into `folder`."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([WORDS], vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer = transformers.MBartTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained.to_str()), src_lang="en_XX", tgt_lang="de_DE", model_max_length=128
    )
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    torch.manual_seed(0)
    config = transformers.MBartConfig(vocab_size=len(tokenizer), **_BART, **ids)
    transformers.MBartForConditionalGeneration(config).eval().save_pretrained(folder)
    return folder


def generator(folder: Path, name: str, generation: dict | None = None, **settings) -> Path:
    """A random two-layer checkpoint of a family with its tokenizer, saved into `folder`."""
    causal = name in CAUSAL
    tokenizer = byte_level(folder, padding_side="left" if causal else "right")
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if not causal:
        ids["decoder_start_token_id"] = 0 if name != "Bart" else 2
    if name == "Bart":
        ids["forced_eos_token_id"] = 2
    values = {**_CONFIGS[name], **ids, **settings}
    # transformers 5 reads any tokenizer of a Qwen2 with that family's class, which adds <|endoftext|>.
    size = len(tokenizer) + (name == "Qwen2")
    config = getattr(transformers, f"{name}Config")(vocab_size=size, **values)
    torch.manual_seed(0)
    model = getattr(transformers, _CLASSES.get(name, f"{name}ForCausalLM"))(config).eval()
    for key, value in (generation or {}).items():
        setattr(model.generation_config, key, value)
    model.save_pretrained(folder)
    return folder
