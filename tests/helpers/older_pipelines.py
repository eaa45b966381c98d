"""The pipelines that transformers 5 dropped, of what it still has: a base class, `generate`, a model's best spans.

Under 4.57 the tests compare with its own.
"""

from __future__ import annotations

from types import GeneratorType

import numpy as np
import torch
import transformers

NAMES = {"text2text-generation": "generated", "summarization": "summary"}


class Writing(transformers.Pipeline):
    """`text2text-generation`, `summarization`, `translation`: the tokenizer's call, `generate`, the texts of its ids.

    Settings and the prefix of the task are those that the config has under `task_specific_params`.
    """

    _pipeline_calls_generate = True
    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_feature_extractor = False
    _default_generation_config = transformers.GenerationConfig(max_new_tokens=256, num_beams=4)

    def __init__(self, task: str, source: str):
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        settings = dict((getattr(model.config, "task_specific_params", None) or {}).get(task, {}))
        prefix = settings.pop("prefix", "")
        super().__init__(model=model, tokenizer=tokenizer, task=task, device="cpu", **settings)
        self.prefix = prefix

    def _sanitize_parameters(
        self, truncation=False, src_lang=None, tgt_lang=None, return_tensors=False,
        clean_up_tokenization_spaces=False, stop_sequence=None, **settings,
    ):  # fmt: skip
        if stop_sequence is not None:
            settings["eos_token_id"] = self.tokenizer.encode(stop_sequence, add_special_tokens=False)[0]
        reading = {"truncation": truncation}
        if src_lang is not None:
            reading |= {"src_lang": src_lang, "tgt_lang": tgt_lang}
        cleaning = {"return_tensors": return_tensors, "clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        return reading, settings, cleaning

    def preprocess(self, text, **reading):
        if "src_lang" in reading:
            return self.tokenizer._build_translation_inputs(text, return_tensors="pt", **reading)
        inputs = self.tokenizer(self.prefix + text, return_tensors="pt", **reading)
        inputs.pop("token_type_ids", None)
        return inputs

    def _forward(self, inputs, **settings):
        return {"rows": self.model.generate(**inputs, **self._prepare_generate_kwargs(settings))}

    def postprocess(self, output, return_tensors, clean_up_tokenization_spaces):
        name = NAMES.get(self.task, "translation")
        if return_tensors:
            return [{f"{name}_token_ids": row} for row in output["rows"]]
        texts = self.tokenizer.batch_decode(
            output["rows"], skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
        )
        return [{f"{name}_text": text} for text in texts]

    def __call__(self, texts, **arguments):
        answers = super().__call__(texts, **arguments)
        one_each = isinstance(texts, list) and all(len(answer) == 1 for answer in answers)
        return [answer[0] for answer in answers] if one_each else answers


class Reading:
    """`question-answering`: a model over every window of a context, and its best spans by the words they end in."""

    def __init__(self, source: str):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        self.model = transformers.AutoModelForQuestionAnswering.from_pretrained(source).eval()

    def __call__(self, *examples, question=None, context=None, **options):
        if question is not None:
            questions = [question] if isinstance(question, str) else question
            contexts = [context] * len(questions) if isinstance(context, str) else context
            examples = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
        elif all(isinstance(example, str) for example in examples):
            examples = [dict(zip(("question", "context"), examples, strict=True))]
        elif isinstance(examples[0], list | GeneratorType):
            (examples,) = examples
        answers = [self._answer(**example, **options) for example in examples]
        return answers[0] if len(answers) == 1 else answers

    def _answer(
        self, question, context, top_k=1, topk=None, max_answer_len=15, handle_impossible_answer=False,
        align_to_words=True, max_seq_len=None, doc_stride=None, max_question_len=None,
    ):  # fmt: skip
        from transformers.pipelines.document_question_answering import select_starts_ends

        top_k = topk or top_k
        length = max_seq_len or min(self.tokenizer.model_max_length, 384)
        windows = self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=length,
            stride=min(length // 2, 128) if doc_stride is None else doc_stride,
            return_overflowing_tokens=True,
        )
        impossible, found = 1_000_000, {}
        for at, window in enumerate(windows.encodings):
            inputs = {name: torch.tensor([windows[name][at]]) for name in self.tokenizer.model_input_names}
            with torch.inference_mode():
                output = self.model(**inputs)
            # What may be in an answer: the context's tokens, and the class token, which stands for no answer.
            outside = [
                [
                    int(sequence != 1 and index != self.tokenizer.cls_token_id)
                    for index, sequence in zip(window.ids, window.sequence_ids, strict=True)
                ]
            ]
            starts, ends, scores, impossible = select_starts_ends(
                output.start_logits.numpy(), output.end_logits.numpy(), np.array(outside), None, impossible,
                top_k * 2 + 10 if align_to_words else top_k, handle_impossible_answer, max_answer_len,
            )  # fmt: skip
            for first, last, score in zip(starts.tolist(), ends.tolist(), scores.tolist(), strict=True):
                begin, end = _characters(window, first, last, align_to_words)
                text = context[begin:end]
                answer = found.setdefault(text.lower(), {"score": 0.0, "start": begin, "end": end, "answer": text})
                answer["score"] += score
        answers = list(found.values())
        if handle_impossible_answer:
            answers.append({"score": float(impossible), "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return answers[0] if len(answers) == 1 else answers


def _characters(window, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
    """Where a span of tokens begins and ends in the context, or the words that it begins and ends in."""
    if align_to_words and None not in (words := (window.token_to_word(first), window.token_to_word(last))):
        spans = [window.word_to_chars(word, 1) for word in words]
        if None not in spans:
            return spans[0][0], spans[1][1]
    return window.offsets[first][0], window.offsets[last][1]
