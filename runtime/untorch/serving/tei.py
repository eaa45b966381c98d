"""Text Embeddings Inference's routes: its fields, defaults, answers, headers and errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from untorch.errors import InputError
from untorch.serving import errors
from untorch.serving.errors import RefusalError
from untorch.serving.fields import Fields, check_texts, kind_of
from untorch.serving.http import Answer, Headers, Request, answer, dump_rows
from untorch.serving.models import Answered, Model
from untorch.serving.routing import Route
from untorch.serving.texts import (
    EMBEDDINGS,
    admit,
    dimensions_of,
    embedded,
    inputs_of,
    not_empty,
    prompt_of,
    truncation_of,
)
from untorch.version import __version__

if TYPE_CHECKING:
    from untorch.serving.application import Application

_CLASSIFIERS = ("text-classification",)


def timings(app: Application, request: Request, start: float, answers: list[Answered], characters: int) -> Headers:
    """The headers that Text Embeddings Inference tells durations in, in whole milliseconds."""
    total = time.perf_counter() - start
    ran = max((answered.seconds for answered in answers), default=0.0)
    waited = max(0.0, total - ran)
    app.telemetry.batched(waited, ran)

    def whole(seconds: float) -> bytes:
        return b"%d" % round(1e3 * seconds)

    return [
        (b"x-compute-type", b"cpu"),
        (b"x-compute-time", whole(total)),
        (b"x-compute-characters", b"%d" % characters),
        (b"x-compute-tokens", b"%d" % request.tokens),
        (b"x-total-time", whole(total)),
        (b"x-tokenization-time", b"0"),
        (b"x-queue-time", whole(waited)),
        (b"x-inference-time", whole(ran)),
    ]


async def embed(app: Application, request: Request) -> Answer:
    """`/embed`: one vector a text."""
    start = time.perf_counter()
    fields = Fields(await request.json())
    model = app.models.choose(None, request.model, EMBEDDINGS)
    texts, _ = inputs_of(app, request, model, fields.value("inputs"), "inputs")
    not_empty(texts, "inputs")
    normalize = fields.flag("normalize", True)
    arguments = truncation_of(fields) | prompt_of(model, fields) | dimensions_of(model, fields)
    answers = await embedded(app, request, model, texts, normalize=normalize, **arguments)
    body = await dump_rows([answered.value for answered in answers])
    return Answer(body, headers=timings(app, request, start, answers, sum(map(len, texts))))


async def embed_all(app: Application, request: Request) -> Answer:
    """`/embed_all`: one vector a token, not pooled."""
    start = time.perf_counter()
    fields = Fields(await request.json())
    model = app.models.choose(None, request.model, "feature-extraction")
    texts, _ = inputs_of(app, request, model, fields.value("inputs"), "inputs")
    not_empty(texts, "inputs")
    prompt = prompt_of(model, fields)
    if prompt:
        before = model.pipeline.settings.prompts[prompt["prompt_name"]]  # type: ignore[attr-defined]
        texts = [before + text for text in texts]
    arguments = truncation_of(fields)
    answers = await model.answers(texts, task="feature-extraction", counted=True, return_tensors=True, **arguments)
    request.tokens = sum(answered.tokens for answered in answers)
    body = await dump_rows([answered.value[0] for answered in answers])
    return Answer(body, headers=timings(app, request, start, answers, sum(map(len, texts))))


async def embed_sparse(app: Application, request: Request) -> Answer:
    """`/embed_sparse`: the dimensions that are not zero, of a model that has such vectors."""
    start = time.perf_counter()
    fields = Fields(await request.json())
    model = app.models.choose(None, request.model, "sparse-embeddings")
    texts, _ = inputs_of(app, request, model, fields.value("inputs"), "inputs")
    not_empty(texts, "inputs")
    answers = await model.answers(texts, counted=True, **truncation_of(fields), **prompt_of(model, fields))
    request.tokens = sum(answered.tokens for answered in answers)
    rows = [_sparse(answered.value) for answered in answers]
    return answer(rows, headers=timings(app, request, start, answers, sum(map(len, texts))))


def _sparse(value: Any) -> list[dict[str, Any]]:
    indices, values = value["indices"], value["values"]
    return [{"index": int(index), "value": float(number)} for index, number in zip(indices, values, strict=True)]


async def predict(app: Application, request: Request) -> Answer:
    """`/predict`: every label and its score, the best first, for a text, a pair, or a batch of them."""
    start = time.perf_counter()
    fields = Fields(await request.json())
    model = app.models.choose(None, request.model, *_CLASSIFIERS)
    items, single = _predicted(fields.value("inputs"))
    texts = [text for item in items for text in (item if isinstance(item, tuple) else (item,))]
    admit(app, request, texts)
    request.texts = len(items)
    not_empty(texts, "inputs")
    arguments = truncation_of(fields) | {"top_k": None, "counted": True}
    if fields.flag("raw_scores", False):
        arguments["function_to_apply"] = "none"
    rows = [{"text": item[0], "text_pair": item[1]} if isinstance(item, tuple) else item for item in items]
    if len({isinstance(item, tuple) for item in items}) > 1:
        # A batch of texts and pairs: each kind runs with its like.
        answers = [await model.answer(row, **arguments) for row in rows]
    else:
        answers = await model.answers(rows, **arguments)
    request.tokens = sum(answered.tokens for answered in answers)
    values = [answered.value for answered in answers]
    headers = timings(app, request, start, answers, sum(map(len, texts)))
    return answer(values[0] if single else values, headers=headers)


def _predicted(value: Any) -> tuple[list[str | tuple[str, str]], bool]:
    """The texts and pairs of `/predict`, and whether it was one alone: a text, or a list of two texts, is one."""
    if isinstance(value, str):
        return [value], True
    if not isinstance(value, list):
        raise RefusalError(
            "invalid", f"`inputs` is {kind_of(value)}; it is a text, a pair, or a list of them", field="inputs"
        )
    if not value:
        raise RefusalError("empty", "`inputs` cannot be empty", field="inputs")
    if all(isinstance(item, str) for item in value):
        return [_one(value)], True
    return [item if isinstance(item, str) else _one(item) for item in value], False


def _one(item: Any) -> str | tuple[str, str]:
    if not isinstance(item, list) or not 1 <= len(item) <= 2:
        raise RefusalError(
            "invalid", "`inputs` is a text, [text, text] for a pair, or a list of [text] and [text, text]"
        )
    check_texts(item, "inputs")
    return item[0] if len(item) == 1 else (item[0], item[1])


async def similarity(app: Application, request: Request) -> Answer:
    """`/similarity`: the cosine of each sentence and the source."""
    start = time.perf_counter()
    fields = Fields(await request.json())
    values, answers, characters = await compared(app, request, fields.fields("inputs"), fields.fields("parameters"))
    return answer(values, headers=timings(app, request, start, answers, characters))


async def compared(
    app: Application, request: Request, inputs: Fields, parameters: Fields
) -> tuple[list[float], list[Answered], int]:
    """Cosines of a source sentence and others, the answers they come from, and how many characters were read."""
    model = app.models.choose(None, request.model, EMBEDDINGS)
    texts = [inputs.text("source_sentence"), *inputs.texts("sentences")]
    if len(texts) == 1:
        raise RefusalError("empty", "`sentences` cannot be empty", field="sentences")
    admit(app, request, texts)
    not_empty(texts, "sentences")
    arguments = truncation_of(parameters) | prompt_of(model, parameters)
    answers = await embedded(app, request, model, texts, normalize=True, **arguments)
    source = answers[0].value
    return [float(answered.value @ source) for answered in answers[1:]], answers, sum(map(len, texts))


async def tokenize(app: Application, request: Request) -> Answer:
    """`/tokenize`: the tokens of each text, with their places in it."""
    fields = Fields(await request.json())
    model = _any_model(app, request)
    texts = fields.text_or_texts("inputs")
    special = fields.flag("add_special_tokens", True)
    values = [texts] if isinstance(texts, str) else texts
    if not values:
        raise RefusalError("empty", "`inputs` cannot be empty", field="inputs")
    admit(app, request, values)
    if prompt := (prompt_of(model, fields) if hasattr(model.pipeline, "settings") else {}):
        before = model.pipeline.settings.prompts[prompt["prompt_name"]]  # type: ignore[attr-defined]
        values = [before + text for text in values]
    return answer(await app.in_pool(_refusing(lambda: [_tokens(model, text, special) for text in values])))


def _tokens(model: Model, text: str, special: bool) -> list[dict[str, Any]]:
    (row,) = model.pipeline.tokenizer([text], add_special_tokens=special, verbose=False).encodings or ()
    tokens = []
    for index, token, (start, stop), mark in zip(
        row.ids, row.tokens, row.offsets, row.special_tokens_mask, strict=True
    ):
        known = {"id": index, "text": token if mark else text[start:stop] or token, "special": bool(mark)}
        tokens.append(known if mark else known | {"start": start, "stop": stop})
    return tokens


async def decode(app: Application, request: Request) -> Answer:
    """`/decode`: the texts of ids."""
    fields = Fields(await request.json())
    model = _any_model(app, request)
    ids = fields.items("ids")
    rows = [ids] if all(type(index) is int for index in ids) else ids
    size = len(model.pipeline.tokenizer)
    for row in rows:
        if not isinstance(row, list) or not all(type(index) is int and 0 <= index < size for index in row):
            raise fields.refuse("ids", f"is a list of ids, or of such lists; an id is a whole number below {size}")
    skip = fields.flag("skip_special_tokens", True)
    decoded = _refusing(lambda: [model.pipeline.tokenizer.decode(row, skip) for row in rows])
    return answer(await app.in_pool(decoded))


def _refusing(work: Callable[[], Any]) -> Callable[[], Any]:
    def do() -> Any:
        try:
            return work()
        except InputError as error:
            raise RefusalError("tokenizer", str(error)) from None

    return do


def _any_model(app: Application, request: Request) -> Model:
    return app.models.get(request.model) if request.model is not None else next(iter(app.models))


async def info(app: Application, request: Request) -> Answer:
    """`/info`: the model and the server's limits."""
    model = _any_model(app, request)
    pipeline, settings = model.pipeline, app.settings
    manifest = pipeline.model.bundle.manifest
    source = manifest.source if manifest is not None else {}
    return answer(
        {
            "model_id": str(source.get("name") or model.name),
            "model_sha": source.get("revision"),
            "model_dtype": pipeline.precision,
            "served_model_name": model.name,
            "model_type": _model_type(model),
            "max_concurrent_requests": settings.max_queue_texts,
            "max_input_length": pipeline.max_length or pipeline.limit or 0,
            "max_batch_tokens": settings.max_batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_texts,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": __version__,
            "sha": None,
            "docker_label": None,
            "models": [{"name": one.name, "task": one.task, "device": one.pipeline.device} for one in app.models],
        }
    )


def _model_type(model: Model) -> dict[str, Any]:
    pipeline = model.pipeline
    if model.can(EMBEDDINGS):
        return {"embedding": {"pooling": "+".join(pipeline.settings.pooling)}}  # type: ignore[attr-defined]
    labels = {str(index): label for index, label in pipeline.model.config.id2label.items()}
    kind = "reranker" if model.can("text-ranking") else "classifier"
    return {kind: {"id2label": labels, "label2id": pipeline.model.config.label2id}}


def _post(path: str, handler: Any) -> Route:
    return Route("POST", path, handler, errors.tei)


ROUTES = [
    _post("/embed", embed),
    _post("/embed_all", embed_all),
    _post("/embed_sparse", embed_sparse),
    _post("/predict", predict),
    _post("/similarity", similarity),
    _post("/tokenize", tokenize),
    _post("/decode", decode),
    Route("GET", "/info", info, errors.tei, working=False),
]
