"""Text generation: a language model continues a text, or answers in a chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import GeneratorType
from typing import Any, Literal

import numpy as np

from untorch.errors import InputError
from untorch.model.causal import AutoModelForCausalLM
from untorch.pipelines.generating import GeneratingPipeline, Parameters

Returned = Literal["full text", "new text", "ids"]


class _Chat:
    """Messages of one chat; a list of messages is otherwise taken for a list of inputs."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        for message in messages:
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise InputError('a chat is a list of messages {"role": …, "content": …}')
        self.messages = list(messages)

    @property
    def ends_with_assistant(self) -> bool:
        return bool(self.messages[-1]["role"] == "assistant")


class TextGenerationPipeline(GeneratingPipeline):
    """`[{"generated_text": …}]` for a prompt, one record a sequence; for a chat, its messages and the answer to them.

    Arguments of a call: transformers' settings of `generate` (`max_new_tokens`, `do_sample`, `num_beams`, …), `seed`,
    `streamer`, `stop_sequence`, `return_full_text` (with the prompt; the default), `return_tensors` (ids, not text),
    `prefix`, `add_special_tokens`, `truncation`, `max_length`, `handle_long_generation="hole"`,
    `clean_up_tokenization_spaces`, `skip_special_tokens`, `continue_final_message`, `tokenizer_encode_kwargs`.
    """

    model_class = AutoModelForCausalLM
    model: AutoModelForCausalLM
    default_settings = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}  # noqa: RUF012

    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """Continue a prompt, a chat, or a list or generator of them; see the class for the arguments."""
        if isinstance(inputs, (list, tuple)) and inputs:
            if isinstance(inputs[0], Mapping):
                return super().__call__(_Chat(inputs), **arguments)
            return super().__call__([_item(item) for item in inputs], **arguments)
        if isinstance(inputs, GeneratorType):
            return super().__call__((_item(item) for item in inputs), **arguments)
        return super().__call__(inputs, **arguments)

    def stream(self, inputs: Any, **arguments: Any) -> Iterator[str]:
        """Yield the new text of one prompt or chat piece by piece; joined, it is the new text decoded as it is."""
        item = _item(inputs)
        parameters = self._parameters({**self._defaults, **arguments})
        settings = {"generation_config": self.generation_config, **parameters.generate}
        ids = self._ids(item, parameters)
        decoding = self.tokenizer.decode_stream(parameters.answer.get("skip_special_tokens") is not False)
        steps = self.model.stream(input_ids=np.array([ids]) if ids else None, tokenizer=self.tokenizer, **settings)
        pieces = (decoding.step(int(tokens[0])) for tokens in steps)
        yield from filter(None, chain(pieces, (decoding.flush() for _ in range(1))))

    def _parameters(self, arguments: dict[str, Any]) -> Parameters:
        arguments = dict(arguments)
        answer = {
            name: arguments.pop(name)
            for name in ("clean_up_tokenization_spaces", "skip_special_tokens", "continue_final_message")
            if arguments.get(name) is not None
        }
        answer["returned"] = _returned(arguments)
        tokenizer = {
            name: arguments.pop(name)
            for name in ("add_special_tokens", "truncation", "tokenizer_encode_kwargs", "handle_long_generation")
            if arguments.get(name) is not None
        }
        if tokenizer.get("handle_long_generation") not in (None, "hole"):
            raise InputError('handle_long_generation is None or "hole"')
        arguments.pop("padding", None)  # inputs of a batch are padded as the model needs it
        prefix = arguments.pop("prefix", None)
        tokenizer["prefix"] = self.prefix if prefix is None else prefix
        if (longest := arguments.get("max_length")) is not None:
            tokenizer["max_length"] = longest
        if (stop := arguments.pop("stop_sequence", None)) is not None:
            arguments["eos_token_id"] = self.tokenizer.encode(stop, add_special_tokens=False)
        if tokenizer["prefix"]:
            self._lengthen(arguments, tokenizer)
        return Parameters(tokenizer, self._settings(arguments), answer)

    def _lengthen(self, arguments: dict[str, Any], tokenizer: Mapping[str, Any]) -> None:
        """Lengths of the whole do not count the prefix."""
        special = tokenizer.get("add_special_tokens", False)
        length = len(self.tokenizer.encode(tokenizer["prefix"], add_special_tokens=special))
        given = arguments.get("generation_config")
        if "max_new_tokens" not in arguments and (given is None or given.max_new_tokens is None):
            arguments["max_length"] = (arguments.get("max_length") or self.generation_config.max_length) + length
        if "min_length" in arguments and "min_new_tokens" not in arguments:
            arguments["min_length"] += length

    def _answers(self, items: list[Any], batch_size: int | None, parameters: Parameters) -> list[Any]:
        rows = [self._ids(item, parameters) for item in items]
        generated = self._generate(rows, batch_size, parameters.generate, left=True)
        return [
            [self._record(item, row, sequence[padding:], parameters.answer) for sequence in sequences]
            for item, row, (padding, sequences) in zip(items, rows, generated, strict=True)
        ]

    def _ids(self, item: Any, parameters: Parameters) -> list[int]:
        options = dict(parameters.tokenizer)
        prefix, hole = options.pop("prefix"), options.pop("handle_long_generation", None)
        options |= options.pop("tokenizer_encode_kwargs", None) or {}
        if isinstance(item, _Chat):
            options.pop("add_special_tokens", None)
            continued = parameters.answer.get("continue_final_message", item.ends_with_assistant)
            ids: Any = self.tokenizer.apply_chat_template(
                item.messages, add_generation_prompt=not continued, continue_final_message=continued, **options
            )
        elif isinstance(item, str):
            ids = self.tokenizer(prefix + item, **options)["input_ids"]
        else:
            raise InputError(f"a prompt is a str, or a list of messages; got {type(item).__name__}")
        return self._cut(ids, parameters.generate) if hole else ids

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

    def _record(self, item: Any, row: list[int], sequence: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        if options["returned"] == "ids":
            return {"generated_token_ids": sequence.tolist()}
        special = options.get("skip_special_tokens", True)
        clean = options.get("clean_up_tokenization_spaces", True)
        text = self.tokenizer.decode(sequence, special, clean)
        new: Any = text[len(self.tokenizer.decode(row, special, clean)) :] if row else text
        if options["returned"] == "new text":
            return {"generated_text": new}
        if isinstance(item, str):
            return {"generated_text": item + new}
        if options.get("continue_final_message", item.ends_with_assistant):
            *earlier, last = item.messages
            return {"generated_text": [*earlier, {"role": last["role"], "content": last["content"] + new}]}
        return {"generated_text": [*item.messages, {"role": "assistant", "content": new}]}


def _item(item: Any) -> Any:
    return _Chat(item) if isinstance(item, (list, tuple)) else item


def _returned(arguments: dict[str, Any]) -> Returned:
    full, ids, text = (arguments.pop(name, None) for name in ("return_full_text", "return_tensors", "return_text"))
    if sum(value is not None for value in (full, ids, text)) > 1:
        raise InputError("give one of return_full_text, return_tensors and return_text")
    if ids is not None:
        return "ids"
    return "new text" if full is False else "full text"
