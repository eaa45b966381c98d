"""Text to text with an encoder-decoder: its answer to a text, a summary of it, or its translation."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np

from untorch.errors import InputError
from untorch.model.generative import GenerativeModel
from untorch.model.seq2seq import AutoModelForSeq2SeqLM
from untorch.pipelines import inputs
from untorch.pipelines.generating import GeneratingParameters, GeneratingPipeline, return_type
from untorch.pipelines.parameters import argument
from untorch.tokenizer import AutoTokenizer, Tokenizer
from untorch.values import string


class Text2TextGenerationParameters(GeneratingParameters):
    """The arguments of a call; see the pipeline."""

    return_type: str | None = argument(None, return_type("TENSORS", "TEXT"))
    src_lang: str | None = None
    tgt_lang: str | None = None
    # Whether the answer is ids, not text.
    ids: bool = False


class Text2TextGenerationPipeline(GeneratingPipeline[Text2TextGenerationParameters]):
    """`[{"generated_text": …}]` for a text, one record a sequence; for a list of texts, one record a text.

    Arguments of a call: transformers' settings of `generate` (`max_new_tokens`, `num_beams`, …), `seed`, `streamer`,
    `stop_sequence`, `truncation`, `return_tensors` (ids, not text), `clean_up_tokenization_spaces`. The prefix that
    the config names for the task is put before every text.
    """

    model_class = AutoModelForSeq2SeqLM
    parameters_class = Text2TextGenerationParameters
    model: AutoModelForSeq2SeqLM
    default_task = "text2text-generation"
    default_settings = {"max_new_tokens": 256, "num_beams": 4}  # noqa: RUF012
    return_name: ClassVar[str] = "generated"

    def _together(self, answers: list[Any]) -> Any:
        return [answer[0] for answer in answers] if all(len(answer) == 1 for answer in answers) else answers

    def _settled(self, parameters: Text2TextGenerationParameters) -> Text2TextGenerationParameters:
        if parameters.return_tensors is not None and parameters.return_text is not None:
            raise InputError("give one of return_tensors and return_text")
        kind = parameters.return_type
        settings = dict(parameters.settings)
        if parameters.stop_sequence is not None:
            settings["eos_token_id"] = self.tokenizer.encode(parameters.stop_sequence, add_special_tokens=False)[0]
        ids = bool(parameters.return_tensors) if kind is None else kind == "TENSORS"
        return parameters.changed(ids=ids, settings=settings)

    def _answers(
        self, items: list[Any], batch_size: int | None, parameters: Text2TextGenerationParameters
    ) -> list[Any]:
        rows = [self._ids(item, parameters) for item in inputs.texts(items)]
        generated = self._generate(rows, batch_size, parameters.settings, left=False)
        return [[self._record(sequence, parameters) for sequence in sequences] for _, sequences in generated]

    def _ids(self, text: str, parameters: Text2TextGenerationParameters) -> list[int]:
        return self._encoded(self.tokenizer, self.prefix + text, parameters)

    def _encoded(self, tokenizer: Tokenizer, text: str, parameters: Text2TextGenerationParameters) -> list[int]:
        truncation = parameters.truncation
        # Cut where the model ends, too, if the tokenizer does not say where.
        ids: list[int] = tokenizer(text, truncation=truncation, max_length=self.max_length if truncation else None)[
            "input_ids"
        ]
        return ids

    def _record(self, sequence: Any, parameters: Text2TextGenerationParameters) -> dict[str, Any]:
        if parameters.ids:
            return {f"{self.return_name}_token_ids": np.asarray(sequence)}
        clean = parameters.clean_up_tokenization_spaces or False
        return {f"{self.return_name}_text": self.tokenizer.decode(sequence, True, clean)}


class SummarizationPipeline(Text2TextGenerationPipeline):
    """`[{"summary_text": …}]`; see Text2TextGenerationPipeline."""

    default_task = "summarization"
    return_name = "summary"


class TranslationParameters(Text2TextGenerationParameters):
    """The arguments of a call; see the pipeline."""

    src_lang: str | None = argument(None, string)
    tgt_lang: str | None = argument(None, string)


class TranslationPipeline(Text2TextGenerationPipeline):
    """`[{"translation_text": …}]`; see Text2TextGenerationPipeline.

    A model of several languages needs `src_lang` and `tgt_lang`, its tokenizer's codes; the task
    `translation_xx_to_yy` names them too, and picks the config's prefix for a model that wants one. `translation`
    alone stands for the first such task that the config has settings for, with a warning.
    """

    parameters_class = TranslationParameters
    default_task = "translation"
    return_name = "translation"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._tokenizers: dict[str, Tokenizer] = {}
        super().__init__(*arguments, **options)

    def _specific_task(self, task: str, model: GenerativeModel) -> str:
        if task != "translation":
            return task
        tasks = [name for name in model.config.get("task_specific_params") or () if name.startswith("translation")]
        if not tasks:
            return task
        warnings.warn(
            f'the task "translation" names no languages; {tasks[0]!r} is taken, the first of {", ".join(tasks)}',
            UserWarning,
            stacklevel=2,
        )
        return str(tasks[0])

    def _settled(self, parameters: Text2TextGenerationParameters) -> Text2TextGenerationParameters:
        parameters = super()._settled(parameters)
        source, target = parameters.src_lang, parameters.tgt_lang
        words = self.task.split("_")
        if source is None and target is None and len(words) == 4:
            source, target = words[1], words[3]
        if not self.tokenizer.translates or source is None or target is None:
            return parameters.changed(src_lang=None)
        first = self.tokenizer.convert_tokens_to_ids(target)
        return parameters.changed(src_lang=source, settings={**parameters.settings, "forced_bos_token_id": first})

    def _ids(self, text: str, parameters: Text2TextGenerationParameters) -> list[int]:
        if not self.tokenizer.translates:
            return super()._ids(text, parameters)
        if parameters.src_lang is None:
            raise InputError("this model translates between several languages; give src_lang and tgt_lang")
        return self._encoded(self._speaking(parameters.src_lang), text, parameters)

    def _speaking(self, language: str) -> Tokenizer:
        """The tokenizer with another source language, whose token it puts with the text."""
        if self._tokenizers.get(language) is None:
            self._tokenizers[language] = AutoTokenizer.from_pretrained(self.tokenizer.name_or_path, src_lang=language)
        return self._tokenizers[language]
