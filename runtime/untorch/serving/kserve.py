"""The Open Inference Protocol (KServe v2): metadata, health, and inference with texts as BYTES."""

from __future__ import annotations

import base64
from math import prod
from typing import TYPE_CHECKING, Any

import orjson

from untorch.serving import errors
from untorch.serving.errors import RefusalError
from untorch.serving.fields import Fields
from untorch.serving.http import JSON, Answer, Headers, Request, answer, dumps, parse
from untorch.serving.models import Model
from untorch.serving.routing import Route
from untorch.serving.texts import EMBEDDINGS, admit
from untorch.version import __version__

if TYPE_CHECKING:
    from untorch.serving.application import Application

# With this header a body is JSON of so many bytes, and the tensors' bytes after it.
_JSON_LENGTH = b"inference-header-content-length"


async def server(app: Application, request: Request) -> Answer:
    """The server's metadata."""
    return answer({"name": "untorch", "version": __version__, "extensions": ["binary_tensor_data"]})


async def live(app: Application, request: Request) -> Answer:
    """The server lives."""
    return answer({"live": True})


async def ready(app: Application, request: Request) -> Answer:
    """All models are ready."""
    return answer({"ready": app.ready}, 200 if app.ready else 503)


async def model_metadata(app: Application, request: Request) -> Answer:
    """A model's inputs and outputs."""
    model = app.models.get(request.parts["name"])
    names = _input_names(model)
    inputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names]
    if model.can(EMBEDDINGS):
        size = int(model.pipeline.model.config.get("hidden_size") or -1)
        outputs = [{"name": "embedding", "datatype": "FP32", "shape": [-1, size]}]
    elif model.task == "text-classification":
        labels = int(model.pipeline.model.config.num_labels)
        outputs = [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, labels]},
        ]
    else:
        outputs = [{"name": "answer", "datatype": "BYTES", "shape": [-1]}]
    platform = f"untorch_{model.pipeline.precision}"
    return answer({"name": model.name, "versions": ["1"], "platform": platform, "inputs": inputs, "outputs": outputs})


async def model_ready(app: Application, request: Request) -> Answer:
    """A model is ready."""
    model = app.models.get(request.parts["name"])
    return answer({"name": model.name, "ready": app.ready}, 200 if app.ready else 503)


def _input_names(model: Model) -> list[str]:
    fields = list(type(model.pipeline).input_fields)
    return fields if model.task == "question-answering" else fields[:1]


async def infer(app: Application, request: Request) -> Answer:
    """Answer texts; tensors may come and go in binary."""
    model = app.models.get(request.parts["name"])
    if request.parts.get("version", "1") != "1":
        raise RefusalError("missing", f"{model.name} has no version {request.parts['version']}; it has 1")
    fields, tensors = await _read(app, request)
    names = _input_names(model)
    columns = [_column(fields, tensors, name, alone=len(names) == 1) for name in names]
    if len(set(map(len, columns))) > 1:
        raise fields.refuse("inputs", f"differ in length; there is one {' and one '.join(names)} a row")
    if not columns[0]:
        raise RefusalError("empty", "`inputs` cannot be empty", field="inputs")
    admit(app, request, [text for column in columns for text in column])
    request.texts = len(columns[0])
    outputs = await _outputs(model, columns, names)
    wanted, binary = _wanted(fields, outputs)
    body: dict[str, Any] = {"model_name": model.name, "model_version": "1", "outputs": []}
    if "id" in fields:
        body["id"] = fields.text("id")
    tail = []
    for name in wanted:
        kind, shape, values = outputs[name]
        record: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if binary[name]:
            data = _bytes(kind, values)
            record["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            record["data"] = values if kind == "BYTES" else values.reshape(-1)
        body["outputs"].append(record)
    head = dumps(body)
    headers: Headers = [(_JSON_LENGTH, b"%d" % len(head))] if tail else []
    return Answer(head + b"".join(tail), kind=b"application/octet-stream" if tail else JSON, headers=headers)


async def _read(app: Application, request: Request) -> tuple[Fields, bytes]:
    body = await request.body()
    length = request.headers.get(_JSON_LENGTH)
    if length is None:
        return Fields(parse(body, app.settings.max_json_depth)), b""
    if not length.isdigit() or int(length) > len(body):
        raise RefusalError(
            "malformed", f"{_JSON_LENGTH.decode()} is {length.decode('latin-1')}; the body has {len(body)} bytes"
        )
    size = int(length)
    return Fields(parse(body[:size], app.settings.max_json_depth)), body[size:]


def _column(fields: Fields, tensors: bytes, name: str, *, alone: bool) -> list[str]:
    """The texts of one input, which may have any name where there is only one."""
    start, found = 0, None
    given = fields.items("inputs")
    for index, value in enumerate(given):
        tensor = Fields(value, f"inputs[{index}]")
        size = tensor.fields("parameters").integer("binary_data_size", None)
        if tensor.text("name") == name or (alone and len(given) == 1):
            if tensor.text("datatype") != "BYTES":
                raise tensor.refuse("datatype", f"is {tensor.text('datatype')}; texts are BYTES")
            found = _texts(tensor) if size is None else _binary_texts(tensor, tensors[start : start + size], size)
            _check_shape(tensor, len(found))
        start += size or 0
    if start != len(tensors):
        raise fields.refuse("inputs", f"tell of {start} bytes of tensors; {len(tensors)} came")
    if found is None:
        raise fields.refuse("inputs", f"has no {name}")
    return found


def _check_shape(tensor: Fields, count: int) -> None:
    shape = tensor.items("shape")
    if not all(type(size) is int and size >= 0 for size in shape) or prod(shape) != count:
        raise tensor.refuse("shape", f"is {shape}; the data are {count} texts")


def _texts(tensor: Fields) -> list[str]:
    values = tensor.items("data")
    while any(isinstance(value, list) for value in values):  # rows of rows are allowed
        values = [inner for value in values for inner in (value if isinstance(value, list) else [value])]
    if not all(isinstance(value, str) for value in values):
        raise tensor.refuse("data", "is not texts alone")
    if tensor.fields("parameters").text("content_type", "str") == "base64":
        return [_decoded(tensor, base64.b64decode(value, validate=False)) for value in values]
    return [str(value) for value in values]


def _binary_texts(tensor: Fields, data: bytes, size: int) -> list[str]:
    """Texts of a binary BYTES tensor: each with its length before it, four bytes, the lowest first."""
    if len(data) != size:
        raise tensor.refuse("parameters", f"tells of {size} bytes of tensors; {len(data)} came")
    texts, place = [], 0
    while place < size:
        length = int.from_bytes(data[place : place + 4], "little")
        place += 4
        if place > size or length > size - place:
            raise tensor.refuse("parameters", "tells of texts that are longer than their bytes")
        texts.append(_decoded(tensor, data[place : place + length]))
        place += length
    return texts


def _decoded(tensor: Fields, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise tensor.refuse("data", "is not UTF-8") from None


async def _outputs(model: Model, columns: list[list[str]], names: list[str]) -> dict[str, tuple[str, list[int], Any]]:
    """Datatype, shape and values by name."""
    import numpy as np

    rows: list[Any] = (
        columns[0] if len(names) == 1 else [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    )
    count = len(rows)
    if model.can(EMBEDDINGS):
        vectors = np.stack([one.value for one in await model.answers(rows, task=EMBEDDINGS, truncation=True)])
        return {"embedding": ("FP32", list(vectors.shape), np.ascontiguousarray(vectors, np.float32))}
    if model.task == "text-classification":
        values = [one.value for one in await model.answers(rows, truncation=True, top_k=None)]
        order = model.pipeline.model.config.id2label.values()
        scores = np.array(
            [[{label["label"]: label["score"] for label in row}[name] for name in order] for row in values]
        )
        best = np.array([row[0]["score"] for row in values], np.float32)
        return {
            "label": ("BYTES", [count], [row[0]["label"] for row in values]),
            "score": ("FP32", [count], best),
            "scores": ("FP32", list(scores.shape), scores.astype(np.float32)),
        }
    if model.task == "text-generation":
        raise RefusalError("cannot", f"{model.name} generates; ask /v1/completions or /v1/chat/completions")
    if model.task not in (
        "token-classification",
        "question-answering",
        "fill-mask",
        "text2text-generation",
        "summarization",
        "translation",
    ):
        raise RefusalError("cannot", f"{model.task} has no form in this protocol; ask /models/{model.name}")
    answers = [orjson.dumps(one.value).decode() for one in await model.answers(rows)]
    return {"answer": ("BYTES", [count], answers)}


def _wanted(fields: Fields, outputs: dict[str, Any]) -> tuple[list[str], dict[str, bool]]:
    """Names of the outputs that are asked for, and which of them in binary."""
    every = fields.fields("parameters").flag("binary_data_output", False)
    asked = [Fields(value, "outputs") for value in fields.items("outputs", [])]
    wanted, binary = [], {}
    for one in asked:
        name = one.text("name")
        if name not in outputs:
            raise one.refuse("name", f"is {name!r}; there is {', '.join(outputs)}")
        wanted.append(name)
        binary[name] = one.fields("parameters").flag("binary_data", every)
    return (wanted, binary) if wanted else (list(outputs), dict.fromkeys(outputs, every))


def _bytes(kind: str, values: Any) -> bytes:
    if kind == "BYTES":
        encoded = [text.encode() for text in values]
        return b"".join(len(data).to_bytes(4, "little") + data for data in encoded)
    return bytes(values.astype("<f4").tobytes())


def _get(path: str, handler: Any, *, public: bool = False) -> Route:
    return Route("GET", path, handler, errors.kserve, public=public, working=False)


ROUTES = [
    _get("/v2", server),
    _get("/v2/health/live", live, public=True),
    _get("/v2/health/ready", ready, public=True),
    _get("/v2/models/{name}", model_metadata),
    _get("/v2/models/{name}/ready", model_ready),
    _get("/v2/models/{name}/versions/{version}", model_metadata),
    _get("/v2/models/{name}/versions/{version}/ready", model_ready),
    Route("POST", "/v2/models/{name}/infer", infer, errors.kserve),
    Route("POST", "/v2/models/{name}/versions/{version}/infer", infer, errors.kserve),
]
