"""`/openapi.json` says what the server does: the same routes, and schemas that requests and answers keep to."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("orjson", reason="the extra `serve` is not installed")
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema judges answers by the schemas")

from untorch.serving.application import all_routes  # noqa: E402

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
REQUESTS = [
    ("/embed", {"inputs": ["nice", "good"], "truncate": None}),
    ("/embed_all", {"inputs": "nice"}),
    ("/predict", {"inputs": "nice"}),
    ("/predict", {"inputs": [["nice"], ["good", "bad"]]}),
    ("/rerank", {"query": "nice", "texts": ["good"], "return_text": True}),
    ("/rerank", {"query": "nice", "documents": ["good"]}),
    ("/v1/rerank", {"query": "nice", "documents": [{"text": "good"}]}),
    ("/v2/rerank", {"query": "nice", "documents": ["good"], "top_n": 1}),
    ("/similarity", {"inputs": {"source_sentence": "nice", "sentences": ["good"]}}),
    ("/tokenize", {"inputs": "nice"}),
    ("/decode", {"ids": [5, 6]}),
    ("/v1/embeddings", {"input": "nice"}),
    ("/embeddings", {"input": ["nice"], "encoding_format": "base64"}),
    ("/v1/completions", {"prompt": "nice", "max_tokens": 3, "logprobs": 1}),
    ("/v1/chat/completions", CHAT),
    ("/", {"inputs": "nice"}),
    ("/v2/models/{name}/infer", {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["nice"]}]}),
]
READ = [
    "/info",
    "/v1/models",
    "/v1/models/{name}",
    "/v2",
    "/v2/health/ready",
    "/v2/models/{name}",
    "/v2/models/{name}/ready",
]
REFUSED = [
    ("/embed", {"inputs": ""}),
    ("/predict", {"inputs": [[]]}),
    ("/v1/embeddings", {"input": []}),
    ("/v1/chat/completions", {"messages": []}),
    ("/v2/models/{name}/infer", {"inputs": []}),
    ("/rerank", {"query": "", "texts": ["a"]}),
]


@pytest.fixture(scope="module")
def document(server):
    return json.loads(server.get("/openapi.json")[1])


def check(document, schema, value):
    """Raise where a value is not as a schema of the document says."""
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def content(part):
    return part["content"]["application/json"]["schema"]


def test_every_route_is_described_and_nothing_else(document):
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in all_routes().all}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = [parameter["name"] for parameter in operation.get("parameters", [])]
            assert named == re.findall(r"{(\w+)}", path)
    for route in all_routes().all:
        operation = document["paths"][route.path][route.method.lower()]
        assert (operation.get("security") == []) == route.public, route.path


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=lambda value: str(value)[:50])
def test_requests_and_answers_keep_to_the_schemas(server, document, path, body):
    operation = document["paths"][path]["post"]
    check(document, content(operation["requestBody"]), body)
    answer = server.post(path.replace("{name}", "sst"), body)
    check(document, content(operation["responses"]["200"]), answer)


@pytest.mark.parametrize("path", READ)
def test_what_is_read_keeps_to_the_schemas(server, document, path):
    answer = json.loads(server.get(path.replace("{name}", "sst"))[1])
    check(document, content(document["paths"][path]["get"]["responses"]["200"]), answer)


@pytest.mark.parametrize(("path", "body"), REFUSED, ids=lambda value: str(value)[:50])
def test_refusals_keep_to_the_schemas(server, document, path, body):
    status, answer = server.refused(path.replace("{name}", "sst"), body)
    check(document, content(document["paths"][path]["post"]["responses"][str(status)]), answer)
