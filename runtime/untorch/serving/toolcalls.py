"""Calls of tools in a model's text, as the templates of Hermes, Qwen and SmolLM have them written."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


def tool_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The text without its calls, and the calls in OpenAI's form.

    A call is `<tool_call>{"name": …, "arguments": {…}}</tool_call>`; what is none stays in the text.
    """
    calls = []
    kept, end = [], 0
    for found in _CALL.finditer(text):
        call = _call(found[1])
        if call is None:
            continue
        kept.append(text[end : found.start()])
        end = found.end()
        calls.append(call)
    return "".join([*kept, text[end:]]).strip() if calls else text, calls


def _call(written: str) -> dict[str, Any] | None:
    try:
        call = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    function = {
        "name": call["name"],
        "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False),
    }
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
