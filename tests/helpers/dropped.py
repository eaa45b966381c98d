"""What the pipelines that transformers 5 dropped answer, from its models and tokenizers themselves.

They take what the tests ask: texts one by one, a question with a context that fits the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
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


def reader(source: Path) -> Callable[[str, str], dict[str, Any]]:
    """The likeliest span of a context for a question, with its score, from the model's two rows of logits."""
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)

    def read(question: str, context: str) -> dict[str, Any]:
        rows = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
        inside = torch.tensor([sequence == 1 for sequence in rows.sequence_ids()])
        offsets = rows.pop("offset_mapping")[0].tolist()
        # The class token stands for no answer: it takes its share of the probability.
        allowed = inside | (rows["input_ids"][0] == tokenizer.cls_token_id) if tokenizer.cls_token_id else inside
        with torch.inference_mode():
            outputs = model(**rows)
        start, end = (
            logits[0].masked_fill(~allowed, -torch.inf).softmax(-1) * inside
            for logits in (outputs.start_logits, outputs.end_logits)
        )
        scores = torch.outer(start, end).triu().tril(_LONGEST - 1)
        first, last = divmod(int(scores.argmax()), len(start))
        begin, stop = offsets[first][0], offsets[last][1]
        return {"score": float(scores[first, last]), "start": begin, "end": stop, "answer": context[begin:stop]}

    return read
