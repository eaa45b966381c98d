"""Ranking passages, in the forms of Text Embeddings Inference (`texts`), and of Cohere and Jina (`documents`)."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from untorch.serving import errors
from untorch.serving.errors import RefusalError
from untorch.serving.fields import Fields
from untorch.serving.http import Answer, Request, answer
from untorch.serving.models import Answered, Model
from untorch.serving.routing import Route
from untorch.serving.tei import timings
from untorch.serving.texts import admit, truncation_of

if TYPE_CHECKING:
    from untorch.serving.application import Application

# Passages that go into one place of the queue, so that a long list of them is answered in parts.
_TOGETHER = 64


async def rerank(app: Application, request: Request) -> Answer:
    """`/rerank`, told apart by its fields: `texts` is Text Embeddings Inference's, `documents` Cohere's and Jina's."""
    fields = Fields(await request.json())
    if "documents" in fields and "texts" not in fields:
        return await _documents(app, request, fields)
    start = time.perf_counter()
    model = app.models.choose(None, request.model, "text-ranking")
    texts = fields.texts("texts")
    if not texts:
        raise RefusalError("empty", "`texts` cannot be empty", field="texts")
    arguments = truncation_of(fields)
    if fields.flag("raw_scores", False):
        arguments["function_to_apply"] = "none"
    else:
        arguments["function_to_apply"] = "sigmoid"
    with_text = fields.flag("return_text", False)
    ranked, answers = await _ranked(app, request, model, fields.text("query"), texts, arguments)
    rows = [
        {"index": row["index"], "score": row["score"], **({"text": row["text"]} if with_text else {})} for row in ranked
    ]
    return answer(rows, headers=timings(app, request, start, answers, sum(map(len, texts))))


async def documents(app: Application, request: Request) -> Answer:
    """`/v1/rerank` and `/v2/rerank`: Cohere's and Jina's form."""
    return await _documents(app, request, Fields(await request.json()))


async def _documents(app: Application, request: Request, fields: Fields) -> Answer:
    model = app.models.choose(fields.text("model", None), request.model, "text-ranking")
    texts = [_document(item, index) for index, item in enumerate(fields.items("documents"))]
    if not texts:
        raise RefusalError("empty", "`documents` cannot be empty", field="documents")
    most = fields.integer("top_n", None, low=1)
    # Cohere's second version does not know the field, its first says false, Jina's says true.
    with_text = fields.flag("return_documents", request.path.endswith("/v1/rerank"))
    scale = {"truncation": True, "function_to_apply": "sigmoid"}
    ranked, _ = await _ranked(app, request, model, fields.text("query"), texts, scale)
    results = [
        {
            "index": row["index"],
            "relevance_score": row["score"],
            **({"document": {"text": row["text"]}} if with_text else {}),
        }
        for row in ranked[:most]
    ]
    usage = {"total_tokens": request.tokens, "prompt_tokens": request.tokens}
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    body = {"id": str(uuid.uuid4()), "model": model.name, "usage": usage, "results": results, "meta": meta}
    return answer(body)


def _document(item: Any, index: int) -> str:
    if isinstance(item, dict):
        item = item.get("text")
    if not isinstance(item, str):
        raise RefusalError("invalid", f"`documents[{index}]` is a text or an object with `text`", field="documents")
    return item


async def _ranked(
    app: Application, request: Request, model: Model, query: str, texts: list[str], arguments: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[Answered]]:
    """The passages, best first: `index`, `score`, `text`."""
    if not query:
        raise RefusalError("empty", "`query` cannot be empty", field="query")
    admit(app, request, [query, *texts])
    request.texts = len(texts)
    starts = range(0, len(texts), _TOGETHER)
    items = [{"query": query, "passages": texts[start : start + _TOGETHER]} for start in starts]
    answers = await model.answers(items, task="text-ranking", counted=True, **arguments)
    request.tokens = sum(answered.tokens for answered in answers)
    rows = [
        {**row, "index": start + row["index"]}
        for start, answered in zip(starts, answers, strict=True)
        for row in answered.value
    ]
    return sorted(rows, key=lambda row: (-row["score"], row["index"])), answers


ROUTES = [
    Route("POST", "/rerank", rerank, errors.cohere),
    Route("POST", "/v1/rerank", documents, errors.cohere),
    Route("POST", "/v2/rerank", documents, errors.cohere),
]
