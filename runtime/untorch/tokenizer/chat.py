"""Chats as the text a model was trained on: the tokenizer's own Jinja template, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any

from untorch.errors import DependencyError, InputError
from untorch.tokenizer.encoding import BatchEncoding

Message = Mapping[str, Any]
Conversation = Sequence[Message]

# Stands at the end of the message to be continued, so that it is found again in the rendered chat.
_MARK = "CONTINUE_FINAL_MESSAGE_TAG "


def get_chat_template(
    templates: str | Mapping[str, str] | None, chosen: str | None, tools: Sequence[Any] | None
) -> str:
    """The template to use: `chosen` (a name, or a template itself), else the tokenizer's for tools, else its default.

    Raises InputError where there is none.
    """
    if isinstance(templates, Mapping):
        if chosen is not None:
            return templates.get(chosen, chosen)
        name = "tool_use" if tools is not None and "tool_use" in templates else "default"
        if name not in templates:
            raise InputError(f"none of the tokenizer's chat templates is the default; name one: {', '.join(templates)}")
        return templates[name]
    template = chosen if chosen is not None else templates
    if template is None:
        raise InputError("this tokenizer has no chat template; pass one as chat_template, or a text instead of a chat")
    return template


def render(
    template: str,
    conversation: Conversation,
    *,
    tools: Sequence[Any] | None,
    documents: Sequence[Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    variables: Mapping[str, Any],
) -> str:
    """The text of one chat. Raises InputError for what the template refuses, DependencyError without jinja2."""
    compiled = _compiled(template)
    messages: Any = conversation
    if continue_final_message:
        messages = deepcopy(list(conversation))
        final = _mark(messages[-1])
    try:
        text = compiled(
            {
                "messages": messages,
                "tools": tools,
                "documents": documents,
                "add_generation_prompt": add_generation_prompt,
                **variables,
            }
        )
    except Exception as error:  # a template is foreign code: whatever it raises is its refusal
        raise InputError(f"the chat template refuses the chat: {str(error) or type(error).__name__}") from error
    if not continue_final_message:
        return text
    if final.strip() not in text or _MARK.strip() not in text:
        raise InputError("the chat template leaves the final message out, so that it cannot be continued")
    place = text.rindex(_MARK.strip())
    # A template that strips messages has stripped the mark's space, and the text before it means the stripped one.
    return text[:place] if text[place : place + len(_MARK)] == _MARK else text[:place].rstrip()


def _mark(message: dict[str, Any]) -> str:
    """Put the mark at the end of a message; the text that it ends."""
    content = message["content"]
    if isinstance(content, str):
        message["content"] = content + _MARK
        return content
    for block in reversed(content):
        if "text" in block:
            text: str = block["text"]
            block["text"] = text + _MARK
            return text
    raise InputError("the final message has no text to continue")


@lru_cache
def _compiled(template: str) -> Callable[[dict[str, Any]], str]:
    try:
        from untorch.tokenizer.sandbox import Sandbox
    except ImportError as error:
        raise DependencyError("chat templates need jinja2. Run: pip install 'untorch[chat]'") from error

    sandbox = Sandbox()
    try:
        return partial(sandbox.render, sandbox.template(template))
    except Exception as error:  # besides jinja2's own, whatever Python says of the code made of it: nested too deeply
        number = getattr(error, "lineno", None)
        line = f", line {number}" if number else ""
        raise InputError(f"the chat template is malformed{line}: {str(error) or type(error).__name__}") from error


class ChatTemplates:
    """What a tokenizer can do with chats."""

    def get_chat_template(self: Any, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The template that `apply_chat_template` would use. Raises InputError where there is none."""
        return get_chat_template(self.chat_template, chat_template, tools)

    def apply_chat_template(
        self: Any,
        conversation: Conversation | Sequence[Conversation],
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> str | list[str] | list[int] | list[list[int]] | BatchEncoding:
        """A chat (messages with `role` and `content`), or a batch of chats, as text or ids.

        `tools` are JSON schemas; they, `documents` and further arguments are passed to the template. Without
        `tokenize` the text; else ids, or with `return_dict` all that a call of the tokenizer gives. Raises InputError
        for a chat that the template refuses, DependencyError without jinja2.
        """
        if return_dict and not tokenize:
            raise InputError("return_dict=True needs tokenize=True: a text has no dictionary")
        if continue_final_message and add_generation_prompt:
            raise InputError("a chat either continues its final message or begins a new one; choose one of the two")
        if any(callable(tool) for tool in tools or ()):
            raise InputError("a tool is given as its JSON schema, not as a function")
        if not conversation:
            raise InputError("the chat has no messages")
        single = isinstance(conversation[0], Mapping)
        chats: Any = [conversation] if single else conversation
        template = get_chat_template(self.chat_template, chat_template, tools)
        texts = [
            render(
                template,
                chat,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables={**self.special_tokens_map, **variables},
            )
            for chat in chats
        ]
        if not tokenize:
            return texts[0] if single else texts
        encoded: BatchEncoding = self(
            texts[0] if single else texts,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            add_special_tokens=False,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        ids: list[int] | list[list[int]] = encoded["input_ids"]
        return encoded if return_dict else ids
