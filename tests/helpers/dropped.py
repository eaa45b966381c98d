"""What the pipelines that transformers 5 dropped answer, from its models and tokenizers themselves.

They take what the tests ask: texts one by one, a question with a context that fits the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

# Tokens that an answer has at most.
_LONGEST = 15
# What those pipelines asked of `generate` where the model says nothing else.
_WRITING = {"max_new_tokens": 256, "num_beams": 4}
_NAMES = {"text2text-generation": "generated", "summarization": "summary"}


def writer(task: str, source: Path) -> Callable[..., list[dict[str, Any]]]:
    """transformers' pipeline of an encoder–decoder, or where it has none any more, `generate` as that called it."""
    if hasattr(transformers, "Text2TextGenerationPipeline"):
        kind = "translation_en_to_de" if task == "translation" else task
        return transformers.pipeline(kind, str(source), tokenizer=str(source), device="cpu")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    name = _NAMES.get(task, "translation")

    def write(
        texts: str | list[str], *, truncation: bool = False, return_tensors: bool = False, **options: Any
    ) -> list[dict[str, Any]]:
        answers = []
        for text in [texts] if isinstance(texts, str) else texts:
            inputs = tokenizer(text, truncation=truncation, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            ids = model.generate(**inputs, **{**_WRITING, **options})[0]
            if return_tensors:
                answers.append({f"{name}_token_ids": ids})
            else:
                answers.append({f"{name}_text": tokenizer.decode(ids, skip_special_tokens=True)})
        return answers

    return write
