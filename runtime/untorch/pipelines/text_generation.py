"""Text generation: a language model continues a text, or answers in a chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np

from untorch.errors import InputError
from untorch.model.causal import AutoModelForCausalLM
from untorch.pipelines import inputs
from untorch.pipelines.generating import GeneratingParameters, GeneratingPipeline, return_type
from untorch.pipelines.inputs import Chat
from untorch.pipelines.parameters import argument
from untorch.pipelines.tokenizing import padding
from untorch.values import count, flag, items, mapping, one_of, string

_FORMS: dict[str, Literal["full text", "new text", "ids"]] = {
    "FULL_TEXT": "full text",
    "NEW_TEXT": "new text",
    "TENSORS": "ids",
}


class TextGenerationParameters(GeneratingParameters):
    """The arguments of a call; see the pipeline."""

    return_type: str | None = argument(None, return_type(*_FORMS))
    return_full_text: bool | None = argument(None, flag)
    prefix: str | None = argument(None, string)
    handle_long_generation: str | None = argument(None, one_of("hole"))
    max_length: int | None = argument(None, count)
    continue_final_message: bool | None = argument(None, flag)
    skip_special_tokens: bool = argument(True, flag)
    add_special_tokens: bool | None = argument(None, flag)
    padding: bool | str = argument(False, padding)
    tokenizer_encode_kwargs: Mapping[str, Any] = argument({}, mapping)
    tools: Sequence[Any] | None = argument(None, items)
    documents: Sequence[Any] | None = argument(None, items)
    form: Literal["full text", "new text", "ids"] = "full text"


class TextGenerationPipeline(GeneratingPipeline[TextGenerationParameters]):
    """`[{"generated_text": …}]` for a prompt, one record a sequence; for a chat, its messages and the answer to them.

    Arguments of a call: transformers' settings of `generate` (`max_new_tokens`, `do_sample`, `num_beams`, …), `seed`,
    `streamer`, `stop_sequence`, `return_full_text` (with the prompt; the default), `return_tensors` (ids, not text),
    `prefix`, `add_special_tokens`, `truncation`, `max_length`, `handle_long_generation="hole"`,
    `clean_up_tokenization_spaces`, `skip_special_tokens`, `continue_final_message`, `tokenizer_encode_kwargs`, and for
    chats `tools` and `documents`, which the chat template reads.
    """

    model_class = AutoModelForCausalLM
    parameters_class = TextGenerationParameters
    model: AutoModelForCausalLM
    default_task = "text-generation"
    input_names = ("text_inputs",)
    default_settings = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}  # noqa: RUF012

    def stream(self, inputs: Any, **arguments: Any) -> Iterator[str]:
        """Yield the new text of one prompt or chat piece by piece; joined, it is the new text decoded as it is."""
        item = self._item(inputs)
        parameters = self._read(self._merged(arguments))
        settings = {"generation_config": self.generation_config, **parameters.settings}
        ids = self._ids(item, parameters)
        decoding = self.tokenizer.decode_stream(parameters.skip_special_tokens)
        steps = self.model.stream(input_ids=np.array([ids]) if ids else None, tokenizer=self.tokenizer, **settings)
        pieces = (decoding.step(int(tokens[0])) for tokens in steps)
        yield from filter(None, chain(pieces, (decoding.flush() for _ in range(1))))

    def _sort(self, inputs_given: Any, parameters: Any) -> tuple[inputs.Kind, Any]:  # noqa: ARG002
        return inputs.prompts(inputs_given)

    def _item(self, item: Any) -> Any:
        return inputs.chat_or_text(item)

    def _settled(self, parameters: TextGenerationParameters) -> TextGenerationParameters:
        prefix = self.prefix if parameters.prefix is None else parameters.prefix
        settings = dict(parameters.settings)
        if parameters.max_length is not None:
            settings["max_length"] = parameters.max_length
        if parameters.stop_sequence is not None:
            settings["eos_token_id"] = self.tokenizer.encode(parameters.stop_sequence, add_special_tokens=False)
        if prefix:
            special = parameters.add_special_tokens or False
            self._lengthen(settings, len(self.tokenizer.encode(prefix, add_special_tokens=special)))
        return parameters.changed(prefix=prefix, settings=settings, form=_form(parameters))

    def _lengthen(self, settings: dict[str, Any], prefix: int) -> None:
        """Lengths of the whole do not count the `prefix` tokens of the prefix."""
        given = settings.get("generation_config")
        if "max_new_tokens" not in settings and (given is None or given.max_new_tokens is None):
            settings["max_length"] = (settings.get("max_length") or self.generation_config.max_length) + prefix
        if "min_length" in settings and "min_new_tokens" not in settings:
            settings["min_length"] += prefix

    def _answers(self, items: list[Any], batch_size: int | None, parameters: TextGenerationParameters) -> list[Any]:
        rows = [self._ids(item, parameters) for item in items]
        generated = self._generate(rows, batch_size, parameters.settings, left=True)
        return [
            [self._record(item, row, sequence[padding:], parameters) for sequence in sequences]
            for item, row, (padding, sequences) in zip(items, rows, generated, strict=True)
        ]

    def _ids(self, item: Any, parameters: TextGenerationParameters) -> list[int]:
        names = ("add_special_tokens", "truncation", "max_length")
        options = {name: value for name in names if (value := getattr(parameters, name)) is not None}
        options |= parameters.tokenizer_encode_kwargs
        if isinstance(item, Chat):
            options.pop("add_special_tokens", None)
            continued = _continues(item, parameters)
            ids: Any = self.tokenizer.apply_chat_template(
                item.messages,
                tools=parameters.tools,
                documents=parameters.documents,
                add_generation_prompt=not continued,
                continue_final_message=continued,
                return_dict=False,
                **options,
            )
        elif isinstance(item, str):
            ids = self.tokenizer((parameters.prefix or "") + item, **options)["input_ids"]
        else:
            raise InputError(f"a prompt is a str, or a list of messages; got {type(item).__name__}")
        return self._cut(ids, parameters.settings) if parameters.handle_long_generation else ids

    def _cut(self, ids: list[int], settings: Mapping[str, Any]) -> list[int]:
        """Cut a prompt on the left, so that the new tokens fit the model."""
        if "max_new_tokens" in settings:
            new = settings["max_new_tokens"]
        else:
            new = settings.get("max_length", self.generation_config.max_length) - len(ids)
        limit = self.tokenizer.model_max_length
        if new < 0 or new >= limit:
            raise InputError(f"{new} new tokens cannot be made room for; the model takes {limit} in all")
        return ids[-(limit - new) :] if len(ids) + new > limit else ids

    def _record(self, item: Any, row: list[int], sequence: Any, parameters: TextGenerationParameters) -> dict[str, Any]:
        if parameters.form == "ids":
            return {"generated_token_ids": sequence.tolist()}
        special, clean = parameters.skip_special_tokens, parameters.clean_up_tokenization_spaces is not False
        decoded = self.tokenizer.decode(sequence, special, clean)
        new: Any = decoded[len(self.tokenizer.decode(row, special, clean)) :] if row else decoded
        if parameters.form == "new text":
            return {"generated_text": new}
        if isinstance(item, str):
            return {"generated_text": item + new}
        if _continues(item, parameters):
            *earlier, last = item.messages
            return {"generated_text": [*earlier, {"role": last["role"], "content": last["content"] + new}]}
        return {"generated_text": [*item.messages, {"role": "assistant", "content": new}]}


def _continues(chat: Chat, parameters: TextGenerationParameters) -> bool:
    """Whether the last message of a chat is continued."""
    given = parameters.continue_final_message
    return chat.ends_with_assistant if given is None else given


def _form(parameters: TextGenerationParameters) -> Literal["full text", "new text", "ids"]:
    """What the caller wants to see."""
    if parameters.return_type is not None:
        return _FORMS[parameters.return_type]
    full, ids, as_text = parameters.return_full_text, parameters.return_tensors, parameters.return_text
    if sum(value is not None for value in (full, ids, as_text)) > 1:
        raise InputError("give one of return_full_text, return_tensors and return_text")
    # As in transformers, whatever return_tensors is: to name it is to ask for ids.
    return "ids" if ids is not None else "new text" if full is False else "full text"
