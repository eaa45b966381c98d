"""Chats as the text a model was trained on: the tokenizer's own Jinja template, rendered in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from functools import lru_cache
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
    from jinja2 import TemplateError

    messages: Any = conversation
    if continue_final_message:
        messages = deepcopy(list(conversation))
        final = _mark(messages[-1])
    try:
        text = str(
            compiled.render(
                messages=messages,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        )
    except TemplateError as error:
        raise InputError(f"the chat template refuses the chat: {error}") from error
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
def _compiled(template: str) -> Any:
    try:
        import jinja2
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise DependencyError("chat templates need jinja2. Run: pip install 'untorch[chat]'") from error

    class Generation(Extension):
        """Lets a template mark what the assistant said with `{% generation %}`; the mark has no effect."""

        tags = {"generation"}  # noqa: RUF012  # jinja2's own declaration

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Callable[[], str]) -> str:
            return caller()

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes for HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"the chat template is malformed, line {error.lineno}: {error.message}") from error


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
