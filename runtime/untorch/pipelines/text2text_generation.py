"""Text to text with an encoder-decoder: its answer to a text, a summary of it, or its translation."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from untorch.errors import InputError
from untorch.model.seq2seq import AutoModelForSeq2SeqLM
from untorch.pipelines.generating import GeneratingPipeline, Parameters
from untorch.tokenizer import AutoTokenizer, Tokenizer


class Text2TextGenerationPipeline(GeneratingPipeline):
    """`[{"generated_text": …}]` for a text, one record a sequence; for a list of texts, one record a text.

    Arguments of a call: transformers' settings of `generate` (`max_new_tokens`, `num_beams`, …), `seed`, `streamer`,
    `stop_sequence`, `truncation`, `return_tensors` (ids, not text), `clean_up_tokenization_spaces`. The prefix that
    the config names for the task is put before every text.
    """

    model_class = AutoModelForSeq2SeqLM
    model: AutoModelForSeq2SeqLM
    default_settings = {"max_new_tokens": 256, "num_beams": 4}  # noqa: RUF012
    return_name: ClassVar[str] = "generated"

    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """Answer a text, a list or a generator of them; see the class for the arguments."""
        answers = super().__call__(inputs, **arguments)
        if isinstance(inputs, list) and all(len(answer) == 1 for answer in answers):
            return [answer[0] for answer in answers]
        return answers

    def _parameters(self, arguments: dict[str, Any]) -> Parameters:
        arguments = dict(arguments)
        ids, text = arguments.pop("return_tensors", None), arguments.pop("return_text", None)
        if ids is not None and text is not None:
            raise InputError("give one of return_tensors and return_text")
        answer = {"ids": bool(ids), "clean": arguments.pop("clean_up_tokenization_spaces", None) or False}
        if (stop := arguments.pop("stop_sequence", None)) is not None:
            arguments["eos_token_id"] = self.tokenizer.encode(stop, add_special_tokens=False)[0]
        tokenizer = {"truncation": arguments.pop("truncation", None)}
        return Parameters(tokenizer, self._settings(arguments), answer)

    def _answers(self, items: list[Any], batch_size: int | None, parameters: Parameters) -> list[Any]:
        rows = [self._ids(item, parameters) for item in items]
        generated = self._generate(rows, batch_size, parameters.generate, left=False)
        return [[self._record(sequence, parameters.answer) for sequence in sequences] for _, sequences in generated]

    def _ids(self, item: Any, parameters: Parameters) -> list[int]:
        if not isinstance(item, str):
            raise InputError(f"{self.task} takes texts (str), not {type(item).__name__}")
        return self._encoded(self.tokenizer, self.prefix + item, parameters)

    def _encoded(self, tokenizer: Tokenizer, text: str, parameters: Parameters) -> list[int]:
        truncation = parameters.tokenizer["truncation"]
        # Cut where the model ends, too, if the tokenizer does not say where.
        ids: list[int] = tokenizer(text, truncation=truncation, max_length=self.max_length if truncation else None)[
            "input_ids"
        ]
        return ids

    def _record(self, sequence: Any, options: dict[str, Any]) -> dict[str, Any]:
        if options["ids"]:
            return {f"{self.return_name}_token_ids": np.asarray(sequence)}
        return {f"{self.return_name}_text": self.tokenizer.decode(sequence, True, options["clean"])}


class SummarizationPipeline(Text2TextGenerationPipeline):
    """`[{"summary_text": …}]`; see Text2TextGenerationPipeline."""

    return_name = "summary"


class TranslationPipeline(Text2TextGenerationPipeline):
    """`[{"translation_text": …}]`; see Text2TextGenerationPipeline.

    A model of several languages needs `src_lang` and `tgt_lang`, its tokenizer's codes; the task
    `translation_xx_to_yy` names them too, and picks the config's prefix for a model that wants one.
    """

    return_name = "translation"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._tokenizers: dict[str, Tokenizer] = {}
        super().__init__(*arguments, **options)

    def _parameters(self, arguments: dict[str, Any]) -> Parameters:
        arguments = dict(arguments)
        source, target = arguments.pop("src_lang", None), arguments.pop("tgt_lang", None)
        words = self.task.split("_")
        if source is None and target is None and len(words) == 4:
            source, target = words[1], words[3]
        parameters = super()._parameters(arguments)
        if self.tokenizer.translates and source is not None and target is not None:
            parameters.tokenizer["src_lang"] = source
            parameters.generate["forced_bos_token_id"] = self.tokenizer.convert_tokens_to_ids(target)
        return parameters

    def _ids(self, item: Any, parameters: Parameters) -> list[int]:
        if not self.tokenizer.translates:
            return super()._ids(item, parameters)
        if (source := parameters.tokenizer.get("src_lang")) is None:
            raise InputError("this model translates between several languages; give src_lang and tgt_lang")
        if not isinstance(item, str):
            raise InputError(f"{self.task} takes texts (str), not {type(item).__name__}")
        return self._encoded(self._speaking(source), item, parameters)

    def _speaking(self, language: str) -> Tokenizer:
        """The tokenizer with another source language, whose token it puts with the text."""
        if self._tokenizers.get(language) is None:
            self._tokenizers[language] = AutoTokenizer.from_pretrained(self.tokenizer.name_or_path, src_lang=language)
        return self._tokenizers[language]
