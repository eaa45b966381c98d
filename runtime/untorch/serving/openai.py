"""OpenAI's routes for models and embeddings; what generates is in `chat.py`."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

import numpy as np

from untorch.serving import chat, errors
from untorch.serving.fields import Fields
from untorch.serving.http import Answer, Request, answer, dump_rows, dumps
from untorch.serving.routing import Route
from untorch.serving.tei import timings
from untorch.serving.texts import EMBEDDINGS, dimensions_of, embedded, inputs_of, not_empty

if TYPE_CHECKING:
    from untorch.serving.application import Application


async def embeddings(app: Application, request: Request) -> Answer:
    """`/v1/embeddings`: vectors of length 1, as numbers or in base64 (little-endian float32)."""
    start = time.perf_counter()
    fields = Fields(await request.json())
    model = app.models.choose(fields.text("model", None), request.model, EMBEDDINGS)
    texts, _ = inputs_of(app, request, model, fields.value("input"), "input")
    not_empty(texts, "input")
    form = fields.choice("encoding_format", ("float", "base64"), "float")
    sizes = dimensions_of(model, fields)
    if sizes and not model.cuts_vectors:
        raise fields.refuse("dimensions", f"cannot be chosen: {model.name} was not trained for vectors that are cut")
    answers = await embedded(app, request, model, texts, normalize=True, truncation=True, **sizes)
    usage = {"prompt_tokens": request.tokens, "total_tokens": request.tokens}
    frame = dumps({"object": "list", "model": model.name, "usage": usage})[:-1]
    vectors = [answered.value for answered in answers]
    if form == "base64":
        rows = dumps([_record(index, _base64(vector)) for index, vector in enumerate(vectors)])
    elif len(vectors) == 1:
        rows = dumps([_record(0, vectors[0])])
    else:
        # The numbers are most of it, so that they are written in parts.
        inner = (await dump_rows(vectors))[2:-2].split(b"],[")
        start_of, between, end_of = b'{"object":"embedding","index":', b',"embedding":[', b"]}"
        rows = b"[%b]" % b",".join(
            b"%b%d%b%b%b" % (start_of, index, between, row, end_of) for index, row in enumerate(inner)
        )
    headers = timings(app, request, start, answers, sum(map(len, texts)))
    return Answer(frame + b',"data":' + rows + b"}", headers=headers)


def _record(index: int, vector: object) -> dict[str, object]:
    return {"object": "embedding", "index": index, "embedding": vector}


def _base64(vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


async def models(app: Application, request: Request) -> Answer:
    """`/v1/models`: what is served."""
    return answer({"object": "list", "data": [chat.model_record(model) for model in app.models]})


async def model(app: Application, request: Request) -> Answer:
    """`/v1/models/{name}`: one of them."""
    return answer(chat.model_record(app.models.get(request.parts["name"])))


ROUTES = [
    Route("POST", "/v1/embeddings", embeddings, errors.openai),
    Route("POST", "/embeddings", embeddings, errors.openai),
    Route("GET", "/v1/models", models, errors.openai, working=False),
    Route("GET", "/v1/models/{name}", model, errors.openai, working=False),
    *chat.ROUTES,
]
