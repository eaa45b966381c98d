"""Chats as the text a model was trained on: the tokenizer's own Jinja template, rendered in a sandbox."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any, NamedTuple

from untorch.bundle.arguments import Rule
from untorch.errors import DependencyError, InputError
from untorch.tokenizer.encoding import BatchEncoding
from untorch.values import either, flag, items, mapping, read, string

Message = Mapping[str, Any]
Conversation = Sequence[Message]

# transformers' arguments of a chat that would change something and that no template is to see.
RULES: Mapping[str, Rule] = {
    "sanitize_control_tokens": Rule((False,), "take special tokens out of what users write before it becomes a chat"),
}

# What begins a block that a template marks as the assistant's.
_GENERATION = re.compile(r"{%[-+]?\s*generation\b")

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


class Rendered(NamedTuple):
    """The text of one chat, and where the assistant's parts of it lie: [start, end) in characters."""

    text: str
    spans: list[tuple[int, int]]


def render(
    template: str,
    conversation: Conversation,
    *,
    tools: Sequence[Any] | None,
    documents: Sequence[Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool | str,
    variables: Mapping[str, Any],
    mark: bool = False,
) -> Rendered:
    """Render one chat, with the assistant's parts found if they are to be `mark`ed.

    `continue_final_message` is False, True or the name of the field that is continued. Raises InputError for what the
    template refuses, DependencyError without jinja2.
    """
    compiled = _compiled(template)
    messages: Any = conversation
    if continue_final_message:
        field = continue_final_message if isinstance(continue_final_message, str) else "content"
        messages = deepcopy(list(conversation))
        final = _mark(messages[-1], field)
    sign = ""
    if mark:
        import secrets  # here: it is only wanted for this

        sign = f"\0{secrets.token_hex(8)}\0"  # nobody can have written it in the chat
    try:
        text = compiled(
            {
                "messages": messages,
                "tools": tools,
                "documents": documents,
                "add_generation_prompt": add_generation_prompt,
                **variables,
            },
            mark=sign,
        )
    except Exception as error:  # a template is foreign code: whatever it raises is its refusal
        raise InputError(f"the chat template refuses the chat: {str(error) or type(error).__name__}") from error
    if mark:
        return _unmarked(text, sign)
    if not continue_final_message:
        return Rendered(text, [])
    if final.strip() not in text or _MARK.strip() not in text:
        raise InputError("the chat template leaves the final message out, so that it cannot be continued")
    place = text.rindex(_MARK.strip())
    # A template that strips messages has stripped the mark's space, and the text before it means the stripped one.
    return Rendered(text[:place] if text[place : place + len(_MARK)] == _MARK else text[:place].rstrip(), [])


def _unmarked(text: str, sign: str) -> Rendered:
    """The text without the marks, of which every second one ends what the one before begins."""
    parts = text.split(sign)
    spans, position = [], 0
    for number, part in enumerate(parts):
        if number % 2:
            spans.append((position, position + len(part)))
        position += len(part)
    return Rendered("".join(parts), spans)


def _mark(message: dict[str, Any], field: str) -> str:
    """Put the mark at the end of a message's field; the text that it ends."""
    content = message.get(field)
    if isinstance(content, str):
        message[field] = content + _MARK
        return content
    for block in reversed(content or ()):
        if "text" in block:
            text: str = block["text"]
            block["text"] = text + _MARK
            return text
    raise InputError(f"the final message has no text to continue in its {field}")


def _inside(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """1 for each token that has a character in one of the spans, 0 for each other."""
    return [int(any(begin < stop and start < end for start, stop in spans)) for begin, end in offsets]


@lru_cache
def _compiled(template: str) -> Callable[..., str]:
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
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> str | list[str] | list[int] | list[list[int]] | BatchEncoding:
        """A chat (messages with `role` and `content`), or a batch of chats, as text or as a tokenizer's answer.

        `tools` are JSON schemas; they, `documents` and further arguments are passed to the template. Without
        `tokenize` the answer is the text; without `return_dict` the ids alone, which is transformers 4's default.
        `continue_final_message` leaves the last message open, or the field of it that is named.
        `return_assistant_tokens_mask` adds `assistant_masks`: 1 for each token of what the template has in a block
        `{% generation %}`. Raises InputError for a chat that the template refuses and for arguments that contradict
        each other, DependencyError without jinja2.
        """
        for name, value in (("tools", tools), ("documents", documents)):
            if value is not None:
                read(items, name, value, "apply_chat_template")
        read(
            either("True, False or the name of a field", flag, string), "continue_final_message", continue_final_message
        )
        kwargs = {} if tokenizer_kwargs is None else read(mapping, "tokenizer_kwargs", tokenizer_kwargs)
        for name in RULES.keys() & variables.keys():
            RULES[name].check(name, variables.pop(name), "apply_chat_template")
        if return_assistant_tokens_mask and not (return_dict and tokenize):
            raise InputError("return_assistant_tokens_mask=True needs return_dict=True and tokenize=True")
        if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
            raise InputError(
                "a chat either continues its final message or begins a new one, and the mask of the assistant's tokens "
                "is of finished messages; choose one of the three"
            )
        if any(callable(tool) for tool in tools or ()):
            raise InputError("a tool is given as its JSON schema, not as a function")
        if not isinstance(conversation, (list, tuple)) or not conversation:
            raise InputError("the chat has no messages" if conversation == [] else "a chat is a list of messages")
        single = isinstance(conversation[0], Mapping)
        chats: Any = [conversation] if single else conversation
        template = get_chat_template(self.chat_template, chat_template, tools)
        if return_assistant_tokens_mask and not _GENERATION.search(template):
            warnings.warn("the chat template marks nothing with {% generation %}: the mask is all 0", stacklevel=2)
        rendered = [
            render(
                template,
                chat,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables={**self.special_tokens_map, **variables},
                mark=return_assistant_tokens_mask,
            )
            for chat in chats
        ]
        texts = [one.text for one in rendered]
        if not tokenize:
            return texts[0] if single else texts
        encoded: BatchEncoding = self(
            texts[0] if single else texts,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            add_special_tokens=False,
            return_tensors=return_tensors,
            **kwargs,
        )
        if return_assistant_tokens_mask:
            rows = zip(encoded.encodings or (), rendered, strict=False)
            masks = [_inside(row.offsets, one.spans) for row, one in rows]
            encoded["assistant_masks"] = masks[0] if single and return_tensors is None else masks
            encoded.convert_to_tensors(return_tensors)
        ids: list[int] | list[list[int]] = encoded["input_ids"]
        return encoded if return_dict else ids
