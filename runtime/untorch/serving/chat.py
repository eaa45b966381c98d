"""OpenAI's routes that generate: `/v1/completions` and `/v1/chat/completions`, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from untorch.errors import UntorchError
from untorch.serving import errors
from untorch.serving.errors import RefusalError
from untorch.serving.fields import Fields
from untorch.serving.generating import Writing, asked, begin
from untorch.serving.http import EVENTS, Answer, Request, answer, event
from untorch.serving.models import Model
from untorch.serving.routing import Route
from untorch.serving.texts import admit, text_of_ids
from untorch.serving.toolcalls import tool_calls

if TYPE_CHECKING:
    from untorch.serving.application import Application

_DONE = b"data: [DONE]\n\n"
# OpenAI's default for completions; a chat's is what the server allows.
_COMPLETION_TOKENS = 16


def model_record(model: Model) -> dict[str, Any]:
    """A model as `/v1/models` lists it."""
    own = {"id": model.name, "object": "model", "created": model.created, "owned_by": "untorch"}
    return {**own, "task": model.task, "tasks": model.tasks}


@dataclass
class _Reply:
    """One answer to a request, in the making: its writings are the choices."""

    kind: str
    model: Model
    writings: list[Writing]
    usage: bool = False
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def frame(self, choices: list[dict[str, Any]], kind: str | None = None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind or self.kind,
            "created": self.created,
            "model": self.model.name,
            "choices": choices,
        }

    def usage_of(self) -> dict[str, int]:
        read = {writing.prompt: writing.prompt_tokens for writing in self.writings}
        new = sum(writing.new_tokens for writing in self.writings)
        prompt = sum(read.values())
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


async def completions(app: Application, request: Request) -> Answer:
    """`/v1/completions`: a prompt, or several, continued."""
    fields = Fields(await request.json())
    model = app.models.choose(fields.text("model", None), request.model, "text-generation")
    if "suffix" in fields:
        raise fields.refuse("suffix", "is not supported")
    prompts = _prompts(app, request, model, fields)
    what = asked(app, fields, default_tokens=_COMPLETION_TOKENS, logprobs=fields.integer("logprobs", None, high=20))
    if fields.integer("best_of", what.choices, low=1) != what.choices:
        raise fields.refuse("best_of", "is not supported beside n")
    echo = fields.flag("echo", False)
    writings = _all(
        begin(model, _ids_of(model, prompt), what, prompt=place, choice=choice, echoed=prompt if echo else "")
        for place, prompt in enumerate(prompts)
        for choice in range(what.choices)
    )
    reply = _Reply("text_completion", model, writings, what.usage, f"cmpl-{uuid.uuid4().hex}")
    if what.stream:
        return await _streamed(app, request, reply, _completion_piece)
    return await _whole(app, request, reply, _completion_choice)


def _all(begun: Iterator[Writing]) -> list[Writing]:
    """The writings, as they are begun; where one finds no room, those before it are given up."""
    writings: list[Writing] = []
    try:
        for writing in begun:
            writings.append(writing)  # those before a refusal must be known
    except RefusalError:
        for writing in writings:
            writing.close()
        raise
    return writings


def _prompts(app: Application, request: Request, model: Model, fields: Fields) -> list[str]:
    value = fields.value("prompt", "")
    if isinstance(value, str):
        prompts = [value]
    elif not isinstance(value, list) or not value:
        raise fields.refuse("prompt", "is a text, or a list of texts that is not empty")
    elif all(isinstance(item, (str, list)) for item in value):
        prompts = [item if isinstance(item, str) else text_of_ids(app, model, item, "prompt") for item in value]
    else:
        prompts = [text_of_ids(app, model, value, "prompt")]
    admit(app, request, prompts)
    return prompts


def _ids_of(model: Model, prompt: str) -> Callable[[], list[int]]:
    def ids() -> list[int]:
        found: list[int] = model.pipeline.tokenizer(prompt)["input_ids"]
        return found

    return ids


async def chat(app: Application, request: Request) -> Answer:
    """`/v1/chat/completions`: the answer to a chat."""
    fields = Fields(await request.json())
    model = app.models.choose(fields.text("model", None), request.model, "text-generation")
    messages = messages_of(fields)
    admit(app, request, [message["content"] or "" for message in messages])
    tools = _tools(fields)
    top = fields.integer("top_logprobs", 0, high=20) if fields.flag("logprobs", False) else None
    what = asked(app, fields, default_tokens=app.settings.max_new_tokens, logprobs=top)
    ids = chat_ids(model, messages, tools)
    writings = _all(begin(model, ids, what, choice=choice, tools=tools is not None) for choice in range(what.choices))
    reply = _Reply("chat.completion", model, writings, what.usage, f"chatcmpl-{uuid.uuid4().hex}")
    if what.stream:
        return await _streamed(app, request, reply, _chat_piece)
    return await _whole(app, request, reply, _chat_choice)


def chat_ids(model: Model, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> Callable[[], list[int]]:
    """Renders a chat by the tokenizer's template when it is called; the last message, if the model's, is continued."""

    def ids() -> list[int]:
        continued = messages[-1]["role"] == "assistant"
        found: Any = model.pipeline.tokenizer.apply_chat_template(
            messages,
            tools=tools,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            return_dict=False,
        )
        return list(found)

    return ids


def messages_of(fields: Fields) -> list[dict[str, Any]]:
    """The messages of a chat, their contents as texts."""
    messages = []
    for index, value in enumerate(fields.items("messages")):
        message = Fields(value, f"messages[{index}]")
        content = message.value("content", None)
        if isinstance(content, list):
            content = "".join(_text_part(part, index) for part in content)
        elif content is not None and not isinstance(content, str):
            raise message.refuse("content", "is a text or a list of parts")
        if content is None and "tool_calls" not in message:
            raise message.refuse("content", "is missing")
        messages.append({**value, "role": message.text("role"), "content": content})
    if not messages:
        raise fields.refuse("messages", "is empty; a chat has at least one message")
    return messages


def _text_part(part: Any, index: int) -> str:
    inner = Fields(part, f"messages[{index}].content")
    if inner.text("type", "text") != "text":
        raise inner.refuse("type", "is not text, and nothing else can be read")
    text: str = inner.text("text")
    return text


def _tools(fields: Fields) -> list[Any] | None:
    tools = fields.items("tools", None)
    choice = fields.value("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise fields.refuse("tool_choice", "can be auto or none: a model is not forced to call a tool here")
    return tools if tools and choice == "auto" else None


async def _whole(
    app: Application, request: Request, reply: _Reply, choice: Callable[[int, Writing], dict[str, Any]]
) -> Answer:
    try:
        async with asyncio.TaskGroup() as group:
            for writing in reply.writings:
                group.create_task(writing.finish())
    except* UntorchError as failed:
        raise _first(failed) from None
    finally:
        for writing in reply.writings:
            writing.close()
    usage = reply.usage_of()
    request.tokens = usage["total_tokens"]
    body = reply.frame([choice(index, writing) for index, writing in enumerate(reply.writings)])
    return answer(body | {"usage": usage})


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _streamed(  # noqa: C901
    app: Application, request: Request, reply: _Reply, piece: Callable[[int, Writing, str | None], dict[str, Any]]
) -> Answer:
    """Events, once the first token is there: what cannot be answered is still refused with a status."""
    kind = "chat.completion.chunk" if reply.kind == "chat.completion" else reply.kind
    merged: asyncio.Queue[tuple[int, str | None, Exception | None]] = asyncio.Queue()

    async def follow(index: int, writing: Writing) -> None:
        try:
            async for text in writing.pieces():
                merged.put_nowait((index, text, None))
            merged.put_nowait((index, None, None))
        except Exception as error:
            merged.put_nowait((index, None, error))

    tasks = [asyncio.ensure_future(follow(index, writing)) for index, writing in enumerate(reply.writings)]

    def end() -> None:
        for task in tasks:
            task.cancel()
        for writing in reply.writings:
            writing.close()

    try:
        first = await merged.get()
        if first[2] is not None:
            raise first[2]
    except BaseException:
        end()
        raise

    async def events() -> AsyncIterator[bytes]:
        try:
            if kind == "chat.completion.chunk":
                for index in range(len(tasks)):
                    opening = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                    yield event(reply.frame([opening], kind))
            running, (index, text, error) = len(tasks), first
            while True:
                if error is not None:
                    refusal = (
                        error if isinstance(error, RefusalError) else RefusalError("failed", reply.model.clean(error))
                    )
                    yield event(errors.openai(refusal)[1])
                    return
                yield event(reply.frame([piece(index, reply.writings[index], text)], kind))
                running -= text is None
                if not running:
                    break
                index, text, error = await merged.get()
            usage = reply.usage_of()
            request.tokens = usage["total_tokens"]
            if reply.usage:
                yield event(reply.frame([], kind) | {"usage": usage})
            yield _DONE
        finally:
            end()

    return Answer(events(), kind=EVENTS)


def _completion_choice(index: int, writing: Writing) -> dict[str, Any]:
    return {
        "index": index,
        "text": writing.text,
        "logprobs": _completion_logprobs(writing, 0),
        "finish_reason": writing.finish_reason,
    }


def _completion_piece(index: int, writing: Writing, text: str | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": text or "",
        "logprobs": _completion_logprobs(writing, writing.taken()) if text else None,
        "finish_reason": writing.finish_reason if text is None else None,
    }


def _completion_logprobs(writing: Writing, start: int) -> dict[str, Any] | None:
    if not writing.scored:
        return None
    records = writing.records[start:]
    return {
        "tokens": [record.token for record in records],
        "token_logprobs": [record.logprob for record in records],
        "top_logprobs": [{token: logprob for token, _, logprob in record.top} for record in records],
        "text_offset": [record.offset for record in records],
    }


def _chat_choice(index: int, writing: Writing) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": writing.text, "refusal": None}
    reason = writing.finish_reason
    if writing.tools:
        content, calls = tool_calls(writing.text)
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
            reason = "tool_calls"
    return {"index": index, "message": message, "logprobs": _chat_logprobs(writing, 0), "finish_reason": reason}


def _chat_piece(index: int, writing: Writing, text: str | None) -> dict[str, Any]:
    if text is not None:
        logprobs = _chat_logprobs(writing, writing.taken())
        return {"index": index, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}
    delta: dict[str, Any] = {}
    reason = writing.finish_reason
    if writing.tools:
        # A call is told when it is whole; until then its text was held back.
        content, calls = tool_calls(writing.text)
        if calls:
            delta = {"tool_calls": [call | {"index": place} for place, call in enumerate(calls)]}
            reason = "tool_calls"
        if content and writing.held:
            delta["content"] = content
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _chat_logprobs(writing: Writing, start: int) -> dict[str, Any] | None:
    if not writing.scored:
        return None

    def told(token: str, data: list[int], logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": data}

    content = [
        told(record.token, record.data, record.logprob) | {"top_logprobs": [told(*other) for other in record.top]}
        for record in writing.records[start:]
    ]
    return {"content": content, "refusal": None}


ROUTES = [
    Route("POST", "/v1/completions", completions, errors.openai),
    Route("POST", "/v1/chat/completions", chat, errors.openai),
]
