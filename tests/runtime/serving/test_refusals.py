"""What cannot be answered gets the status and body that the protocol's clients understand, and never a 500."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import cases, is_long, mutated
from helpers.servers import Server

CHAT = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {"inputs": ""}, 400, "Empty"),
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": 3}, 422, "Validation"),
        ("/embed", {}, 422, "Validation"),
        ("/embed", [], 422, "Validation"),
        ("/embed", {"inputs": ["good", None]}, 422, "Validation"),
        ("/embed", {"inputs": "good", "normalize": "yes"}, 422, "Validation"),
        ("/embed", {"inputs": "good", "dimensions": 0}, 422, "Validation"),
        ("/embed", {"inputs": "good", "dimensions": 10_000}, 422, "Validation"),
        ("/embed", {"inputs": "good", "prompt_name": "passage"}, 422, "Validation"),
        ("/embed", {"inputs": "good", "truncation_direction": "up"}, 422, "Validation"),
        ("/embed", {"inputs": [1, 2, 3]}, 422, "Validation"),
        ("/embed_sparse", {"inputs": "good"}, 424, "Backend"),
        ("/models/qa/embed", {"inputs": "good"}, 424, "Backend"),
        ("/models/none/embed", {"inputs": "good"}, 404, "Validation"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "Validation"),
        ("/predict", {"inputs": [[1]]}, 422, "Validation"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty"),
        ("/rerank", {"query": "", "texts": ["a"]}, 400, "Empty"),
        ("/rerank", {"query": "a", "texts": [{"text": "b"}]}, 422, "Validation"),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 422, "Validation"),
        ("/v1/rerank", {"query": "a", "documents": [7]}, 422, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "a"}}, 422, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty"),
        ("/decode", {"ids": [10**9]}, 422, "Validation"),
        ("/decode", {"ids": [[-1]]}, 422, "Validation"),
        ("/decode", {"ids": ["a"]}, 422, "Validation"),
        ("/models/sst", {"inputs": "a", "parameters": {"top_k": "many"}}, 422, "Validation"),
        ("/models/sst", {"inputs": "a", "parameters": {"function_to_apply": "magic"}}, 422, "Validation"),
        ("/models/sst", {"inputs": "a", "parameters": []}, 422, "Validation"),
        ("/models/ner", {"inputs": "a", "parameters": {"aggregation_strategy": "all"}}, 422, "Validation"),
        ("/models/ner", {"inputs": "a", "parameters": {"ignore_labels": 7}}, 422, "Validation"),
        ("/models/ner", {"inputs": "a", "parameters": {"stride": 10**6}}, 422, "Validation"),
        ("/models/qa", {"inputs": {"question": "a"}}, 422, "Validation"),
        ("/models/qa", {"inputs": {"question": "a", "context": ""}}, 422, "Validation"),
        ("/models/qa", {"inputs": {"question": "a " * 500, "context": "b"}}, 422, "Validation"),
        ("/models/mask", {"inputs": "no mask"}, 422, "Validation"),
        ("/models/mask", {"inputs": "a [MASK]", "parameters": {"targets": [{}]}}, 422, "Validation"),
        ("/models/nli", {"inputs": "a", "parameters": {"candidate_labels": []}}, 422, "Validation"),
        (
            "/models/nli",
            {"inputs": "a", "parameters": {"candidate_labels": ["b"], "hypothesis_template": "{0.__class__}"}},
            422,
            "Validation",
        ),
        ("/models/lm", {"inputs": "a", "parameters": {"temperature": "hot"}}, 422, "Validation"),
        ("/models/lm", {"inputs": "good people " * 300}, 422, "Validation"),
        ("/models/sum", {"inputs": "a", "parameters": {"generate_parameters": {"num_beams": 99}}}, 422, "Validation"),
        ("/nowhere", {"inputs": "a"}, 404, "Validation"),
        ("/embed/", {"inputs": ""}, 400, "Empty"),
        ("/admin/reload", {}, 404, "Validation"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_text_embeddings_inferences_errors(server, path, body, status, kind):
    found, answer = server.refused(path, body)
    assert (found, answer["error_type"]) == (status, kind), answer
    assert isinstance(answer["error"], str)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/embeddings", {"input": [[1, 2]]}, 400, "input"),
        ("/v1/embeddings", {"input": ""}, 400, "input"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ("/v1/chat/completions", {"messages": ["hello"]}, 400, "messages[0]"),
        ("/v1/chat/completions", {"messages": CHAT, "temperature": 3}, 400, "temperature"),
        ("/v1/chat/completions", {"messages": CHAT, "n": 0}, 400, "n"),
        ("/v1/chat/completions", {"messages": CHAT, "frequency_penalty": 1.0}, 400, "frequency_penalty"),
        ("/v1/chat/completions", {"messages": CHAT, "stop": [""]}, 400, "stop"),
        (
            "/v1/chat/completions",
            {"messages": CHAT, "response_format": {"type": "json_object"}},
            400,
            "response_format",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "good people " * 300}]}, 400, None),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "good people " * 300}], "stream": True},
            400,
            None,
        ),
        ("/v1/completions", {"prompt": [1, 2]}, 400, "prompt"),
        ("/v1/completions", {"prompt": "a", "best_of": 3}, 400, "best_of"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_openais_errors(server, path, body, status, param):
    found, answer = server.refused(path, body)
    assert (found, answer["error"]["param"]) == (status, param), answer
    # The fields that Text Embeddings Inference answers on this route are there too.
    assert (answer["message"], answer["code"]) == (answer["error"]["message"], status)


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [{"name": "text", "shape": [1], "datatype": "FP32", "data": [1.0]}],
        [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}],
        [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [1]}],
        [{"name": "text", "shape": ["a"], "datatype": "BYTES", "data": ["a"]}],
        [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}],
        "text",
    ],
    ids=lambda value: str(value)[:60],
)
def test_errors_of_the_open_inference_protocol(server, inputs):
    status, answer = server.refused("/v2/models/sst/infer", {"inputs": inputs})
    assert status == 400
    assert list(answer) == ["error"]


@pytest.mark.parametrize("size", ["3", "999999", "-1", "x"])
def test_binary_tensors_that_do_not_fit_their_header_are_refused(server, size):
    body = b'{"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}'
    for tail in (b"", b"\xff\xff\xff\xff\x00", b"\x01\x00\x00\x00\xff", b"\x01\x00\x00\x00ab"):
        headers = {"Inference-Header-Content-Length": str(len(body)) if size == "3" else size}
        status, _, _ = server.request("POST", "/v2/models/sst/infer", body + tail, headers)
        assert status == 400


def test_a_method_that_a_path_does_not_take(server):
    status, _, data = server.request("GET", "/embed")
    assert (status, json.loads(data)["error"]) == (405, "/embed takes POST")
    status, _, data = server.request("HEAD", "/health")
    assert (status, data) == (200, b"")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"\xff\xfe{}",
        b'{"inputs": "\xff"}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": NaN}',
        b'{"inputs": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 5000,
        b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
@pytest.mark.parametrize("path", ["/embed", "/v1/chat/completions", "/v2/models/sst/infer", "/models/qa"])
def test_bodies_that_are_not_json_are_refused(server, path, body):
    status, _, data = server.request("POST", path, body)
    assert status in (400, 422), data
    assert "error" in json.loads(data)


@pytest.fixture(scope="module")
def strict(bundles):
    options = ["--api-key", "sécret", "--max-body-bytes", "20000", "--max-texts", "3", "--max-text-chars", "5000"]
    with Server({"sst": bundles["sst"], "emb": bundles["emb"]}, *options, "--accept-ids", "--threads", "1") as started:
        yield started


KEY = {"Authorization": "Bearer sécret".encode().decode("latin-1")}


def test_a_wrong_or_missing_key_is_refused(strict):
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "s"}, {"Authorization": "Basic c2Vj"}):
        status, answered, _ = strict.request("POST", "/embed", {"inputs": "good"}, headers)
        assert (status, answered["www-authenticate"]) == (401, "Bearer")
    status, _, _ = strict.request("POST", "/embed", {"inputs": "good"}, KEY)
    assert status == 200
    for path in ("/health", "/health/live", "/metrics", "/openapi.json", "/"):
        assert strict.get(path)[0] == 200
    assert strict.get("/info")[0] == 401


def test_bodies_texts_and_lists_over_the_limits_are_refused(strict):
    def status(body):
        return strict.request("POST", "/embed", body, KEY)[0]

    assert status({"inputs": ["a"] * 3}) == 200
    assert status({"inputs": ["a"] * 4}) == 413
    assert status({"inputs": "a" * 5001}) == 413
    assert status({"inputs": "a" * 20_001}) == 413
    chunked = (
        b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer s\xc3\xa9cret\r\n\r\n"
    )
    answer = strict.raw(chunked + (b"1000\r\n" + b"a" * 4096 + b"\r\n") * 6 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


def test_ids_are_taken_where_the_server_was_told_to(strict, library):
    ids = library("emb").tokenizer.encode("good people", add_special_tokens=False)

    def embedded(value):
        status, _, data = strict.request("POST", "/v1/embeddings", {"input": value}, KEY)
        return status, json.loads(data)

    _, expected = embedded("good people")
    assert embedded(ids)[1]["data"] == expected["data"]
    assert embedded([ids, "good people"])[1]["data"][0] == expected["data"][0]
    status, answer = embedded([[10**6]])
    assert (status, "vocabulary" in answer["error"]["message"]) == (400, True)


def test_errors_carry_no_paths(server, bundles):
    for path, body in (
        ("/models/sst", {"inputs": "a " * 500, "parameters": {"truncation": False}}),
        ("/embed_sparse", {"inputs": "a"}),
    ):
        _, answer = server.refused(path, body)
        assert str(bundles["sst"].parent) not in json.dumps(answer)
        assert "Traceback" not in json.dumps(answer)


def test_a_deadline_of_a_request(server):
    status, answer = server.refused("/v1/completions", {"prompt": "a", "max_tokens": 100}, x_request_timeout="0.0001")
    assert (status, answer["error"]["type"]) == (504, "timeout_error")
    assert server.refused("/predict", {"inputs": "a"}, x_request_timeout="soon")[0] == 422


def written(value):
    """A value as JSON, as far as JSON has it."""
    return json.dumps(value, ensure_ascii=True, default=str).encode()


# A good body for each route, from which the bad ones are made.
GOOD = {
    "/embed": {"inputs": ["a", "b"], "normalize": True, "truncate": True, "dimensions": 8, "prompt_name": None},
    "/embed_all": {"inputs": ["a"], "truncation_direction": "left"},
    "/predict": {"inputs": [["a", "b"], ["c"]], "raw_scores": False},
    "/rerank": {"query": "a", "texts": ["b", "c"], "return_text": True},
    "/v2/rerank": {"model": "m", "query": "a", "documents": ["b", {"text": "c"}], "top_n": 1},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"truncate": True}},
    "/tokenize": {"inputs": ["a"], "add_special_tokens": True},
    "/decode": {"ids": [[1, 2], [3]], "skip_special_tokens": True},
    "/v1/embeddings": {"input": ["a"], "model": "emb", "encoding_format": "base64", "dimensions": 3, "user": "u"},
    "/v1/completions": {
        "prompt": ["a"],
        "max_tokens": 2,
        "n": 1,
        "stop": ["b"],
        "logprobs": 1,
        "seed": 1,
        "stream": False,
    },
    "/v1/chat/completions": {
        "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}],
        "max_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/v2/models/sst/infer": {"id": "1", "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]},
    "/models/sst": {"inputs": ["a"], "parameters": {"top_k": 1, "function_to_apply": "none", "truncation": True}},
    "/models/ner": {
        "inputs": "a b",
        "parameters": {"aggregation_strategy": "max", "stride": 4, "ignore_labels": ["O"]},
    },
    "/models/qa": {"inputs": {"question": "a", "context": "b c"}, "parameters": {"top_k": 2, "max_answer_len": 3}},
    "/models/mask": {"inputs": "a [MASK]", "parameters": {"top_k": 2, "targets": ["b"]}},
    "/models/nli": {"inputs": "a", "parameters": {"candidate_labels": ["b"], "hypothesis_template": "is {}"}},
    "/models/rank": {"inputs": {"query": "a", "passages": ["b"]}, "parameters": {"top_k": 1}},
    "/models/emb": {"inputs": ["a"], "normalize": True},
    "/models/lm": {"inputs": "a", "parameters": {"max_new_tokens": 2, "details": True, "stop": ["c"]}, "stream": False},
    "/models/sum": {"inputs": ["a"], "parameters": {"generate_parameters": {"max_new_tokens": 2, "num_beams": 1}}},
}
bodies = st.sampled_from(sorted(GOOD)).flatmap(
    lambda path: st.tuples(
        st.just(path),
        mutated(GOOD[path]).map(written) | st.sampled_from(sorted(GOOD)).map(lambda other: written(GOOD[other])),
    )
)


# A hundred thousand of them in `make fuzz`.
@cases(5000 if is_long() else 400)
@given(bodies)
def test_no_body_makes_the_server_fail(server, case):
    path, body = case
    status, _, data = server.request("POST", path, body, {"x-request-timeout": "20"})
    assert status < 500, (path, body, status, data, server.lines[-8:])
    if status != 200:
        assert "error" in json.loads(data)
