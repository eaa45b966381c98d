"""Answers over HTTP are the library's, on every route."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from helpers.comparing import same

TEXTS = ["I love this movie", "it was awful", "Hello world, you have been waiting for my whole life so much", "nice"]
QUESTION = {"question": "who lives in it?", "context": "Good people live in the city and bad people do not."}
PASSAGES = ["that film was awful", "the city lives", "I do not love the course so much", "a cool world"]
CHAT = [{"role": "user", "content": "hello people"}]


def rows(vectors, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.array(vectors, np.float32), np.array(expected, np.float32), atol=tolerance)


@pytest.mark.parametrize("path", ["/predict", "/models/sst/predict"])
def test_predict_takes_a_text_a_batch_and_pairs(server, library, path):
    expected = library("sst")(TEXTS, top_k=None)
    unordered(server.post(path, {"inputs": TEXTS[0]}), expected[0])
    unordered(server.post(path, {"inputs": [[text] for text in TEXTS]}), expected)
    raw = library("sst")(TEXTS[:1], top_k=None, function_to_apply="none")[0]
    unordered(server.post(path, {"inputs": TEXTS[0], "raw_scores": True}), raw)
    pair = library("sst")([{"text": TEXTS[0], "text_pair": TEXTS[1]}], top_k=None)[0]
    unordered(server.post(path, {"inputs": TEXTS[:2]}), pair)
    unordered(server.post(path, {"inputs": [TEXTS[:2], [TEXTS[0]]]}), [pair, expected[0]])


def unordered(ours, theirs):
    """Equal, whatever the order of the keys."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        same({key: ours[key] for key in theirs}, theirs)
    else:
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            unordered(one, other)


def test_embed(server, library):
    embed = library("emb")
    rows(server.post("/embed", {"inputs": TEXTS[0]}), embed(TEXTS[:1], normalize=True))
    rows(server.post("/embed", {"inputs": TEXTS}), embed(TEXTS, normalize=True))
    rows(server.post("/embed", {"inputs": TEXTS, "normalize": False}), embed(TEXTS, normalize=False))
    rows(server.post("/embed", {"inputs": TEXTS, "dimensions": 8}), embed(TEXTS, normalize=True, truncate_dim=8))
    query = embed(TEXTS, normalize=True, prompt_name="query")
    rows(server.post("/embed", {"inputs": TEXTS, "prompt_name": "query"}), query)


def test_long_texts_are_cut_where_the_request_says(server, library):
    long = "hello world " * 60 + "awful"
    right = library("emb")(long, normalize=True, truncation=True)
    rows(server.post("/embed", {"inputs": long})[0], right)
    left = server.post("/embed", {"inputs": long, "truncation_direction": "Left"})[0]
    limit = library("emb").limit
    ids = library("emb").tokenizer.encode(long, add_special_tokens=False)[-(limit - 2) :]
    end = library("emb").tokenizer.decode(ids)
    rows(left, library("emb")(end, normalize=True, truncation=True))
    assert not np.allclose(left, right, atol=1e-3)
    status, body = server.refused("/embed", {"inputs": ["nice", long], "truncate": False})
    assert (status, body["error_type"]) == (422, "Validation")
    assert body["error"].startswith("input 1: the text has")


def test_embed_all_gives_a_vector_a_token(server, bundles):
    from untorch import pipeline

    states = pipeline("feature-extraction", bundles["emb"], device="cpu")(TEXTS)
    found = server.post("/embed_all", {"inputs": TEXTS})
    for vectors, expected in zip(found, states, strict=True):
        rows(vectors, expected[0])


def test_similarity_is_the_cosine(server, library):
    vectors = library("emb")(TEXTS, normalize=True)
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}
    rows(server.post("/similarity", body), vectors[1:] @ vectors[0])
    rows(server.post("/models/emb", body), vectors[1:] @ vectors[0])


def test_openai_embeddings_as_numbers_and_in_base64(server, library):
    expected = library("emb")(TEXTS, normalize=True, truncation=True)
    found = server.post("/v1/embeddings", {"input": TEXTS, "model": "emb"})
    assert [record["index"] for record in found["data"]] == list(range(len(TEXTS)))
    rows([record["embedding"] for record in found["data"]], expected)
    counted = sum(library("emb").count_tokens(text) for text in TEXTS)
    assert found["usage"] == {"prompt_tokens": counted, "total_tokens": counted}
    assert found["model"] == "emb"
    packed = server.post("/v1/embeddings", {"input": TEXTS[0], "encoding_format": "base64", "dimensions": 8})
    vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    rows(vector, library("emb")(TEXTS[0], normalize=True, truncate_dim=8))


def test_token_classification(server, library):
    ner = library("ner")
    text = "Good people live in the city"
    unordered(server.post("/models/ner", {"inputs": text}), ner(text, aggregation_strategy="simple", stride=16))
    for strategy in ("none", "first", "max"):
        found = server.post("/models/ner", {"inputs": text, "parameters": {"aggregation_strategy": strategy}})
        unordered(found, ner(text, aggregation_strategy=strategy))
    found = server.post("/models/ner", {"inputs": TEXTS, "parameters": {"ignore_labels": []}})
    unordered(found, ner(TEXTS, aggregation_strategy="simple", ignore_labels=[]))


def test_question_answering(server, library):
    answer = library("qa")
    unordered(server.post("/", {"inputs": QUESTION}), answer(QUESTION))
    found = server.post("/models/qa", {"inputs": QUESTION, "parameters": {"top_k": 3, "max_answer_len": 4}})
    unordered(found, answer(QUESTION, top_k=3, max_answer_len=4))


def test_fill_mask(server, library):
    text = "I love this [MASK] so much"
    unordered(server.post("/models/mask", {"inputs": text}), library("mask")(text))
    found = server.post("/models/mask", {"inputs": text, "parameters": {"targets": ["movie", "film"], "top_k": 2}})
    unordered(found, library("mask")(text, targets=["movie", "film"], top_k=2))


def test_zero_shot_classification(server, library):
    labels = ["people", "film", "city"]
    expected = library("nli", "zero-shot-classification")(TEXTS[0], candidate_labels=labels, multi_label=True)
    body = {"inputs": TEXTS[0], "parameters": {"candidate_labels": labels, "multi_label": True}}
    records = [{"label": a, "score": b} for a, b in zip(expected["labels"], expected["scores"], strict=True)]
    unordered(server.post("/models/nli", body), records)
    unordered(server.post("/models/nli", body, user_agent="unknown/None; hf_hub/0.36.2; python/3.11"), expected)


def test_text_classification_as_hugging_faces_body(server, library):
    unordered(server.post("/models/sst", {"inputs": TEXTS[0]}), [library("sst")(TEXTS[0], top_k=None)])
    found = server.post("/models/sst", {"inputs": TEXTS, "parameters": {"top_k": 1, "function_to_apply": "sigmoid"}})
    unordered(found, library("sst")(TEXTS, top_k=1, function_to_apply="sigmoid"))


@pytest.mark.parametrize("path", ["/rerank", "/models/rank/rerank"])
def test_rerank_in_text_embeddings_inferences_form(server, library, path):
    question = {"query": TEXTS[0], "passages": PASSAGES}
    ranked = library("rank", "text-ranking")(question)
    body = {"query": TEXTS[0], "texts": PASSAGES}
    unordered(server.post(path, body), [{"index": row["index"], "score": row["score"]} for row in ranked])
    unordered(server.post(path, body | {"return_text": True}), ranked)
    raw = library("rank", "text-ranking")(question, function_to_apply="none")
    unordered(server.post(path, body | {"return_text": True, "raw_scores": True}), raw)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_in_coheres_and_jinas_form(server, library, path):
    ranked = library("rank", "text-ranking")({"query": TEXTS[0], "passages": PASSAGES})
    documents = [PASSAGES[0], *({"text": text} for text in PASSAGES[1:])]
    body = {"model": "rank", "query": TEXTS[0], "documents": documents, "top_n": 3, "return_documents": True}
    found = server.post(path, body)
    expected = [
        {"index": row["index"], "relevance_score": row["score"], "document": {"text": row["text"]}}
        for row in ranked[:3]
    ]
    unordered(found["results"], expected)
    assert found["usage"]["total_tokens"] > 0


def test_tokens_are_the_tokenizers(server, library):
    tokenizer = library("sst").tokenizer
    (tokens,) = server.post("/models/sst/tokenize", {"inputs": TEXTS[0]})
    assert [token["id"] for token in tokens] == tokenizer.encode(TEXTS[0])
    assert "".join(TEXTS[0][token["start"] : token["stop"]] for token in tokens if not token["special"]) == TEXTS[
        0
    ].replace(" ", "")
    ids = [token["id"] for token in tokens]
    assert server.post("/models/sst/decode", {"ids": ids}) == [tokenizer.decode(ids, skip_special_tokens=True)]
    whole = server.post("/models/sst/decode", {"ids": [ids, ids[:2]], "skip_special_tokens": False})
    assert whole == [tokenizer.decode(ids), tokenizer.decode(ids[:2])]


def test_open_inference_protocol(server, library):
    def infer(name, *tensors):
        body = {
            "id": "7",
            "inputs": [dict(zip(("name", "shape", "datatype", "data"), one, strict=True)) for one in tensors],
        }
        answer = server.post(f"/v2/models/{name}/infer", body)
        assert (answer["model_name"], answer["id"]) == (name, "7")
        return {output["name"]: output for output in answer["outputs"]}

    best = library("sst")(TEXTS)
    found = infer("sst", ("text", [len(TEXTS)], "BYTES", TEXTS))
    assert found["label"]["data"] == [row["label"] for row in best]
    rows(found["score"]["data"], [row["score"] for row in best])
    vectors = library("emb")(TEXTS)
    found = infer("emb", ("text", [len(TEXTS), 1], "BYTES", [[text] for text in TEXTS]))["embedding"]
    assert found["shape"] == list(vectors.shape)
    rows(found["data"], vectors.ravel())
    tensors = [(name, [1], "BYTES", [text]) for name, text in QUESTION.items()]
    unordered(json.loads(infer("qa", *tensors)["answer"]["data"][0]), library("qa")(QUESTION))


def test_completions_continue_the_prompt(server, library):
    lm = library("lm")
    expected = "".join(lm.stream("hello people", do_sample=False, max_new_tokens=12))
    body = {"model": "lm", "prompt": "hello people", "max_tokens": 12, "temperature": 0}
    found = server.post("/v1/completions", body)
    assert found["choices"][0]["text"] == expected
    read = len(lm.tokenizer.encode("hello people"))
    assert found["usage"]["prompt_tokens"] == read
    *chunks, done = server.events("/v1/completions", body | {"stream": True})
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert chunks[-1]["choices"][0]["finish_reason"] == found["choices"][0]["finish_reason"]
    several = server.post("/v1/completions", body | {"prompt": ["hello people", "the movie"], "echo": True})
    assert several["choices"][0]["text"] == "hello people" + expected
    assert several["choices"][1]["text"] == "the movie" + "".join(
        lm.stream("the movie", do_sample=False, max_new_tokens=12)
    )


def test_chats_are_answered(server, library):
    lm = library("lm")
    expected = "".join(lm.stream(CHAT, do_sample=False, max_new_tokens=12))
    body = {"model": "lm", "messages": CHAT, "max_tokens": 12, "temperature": 0}
    found = server.post("/v1/chat/completions", body)
    assert found["choices"][0]["message"] == {"role": "assistant", "content": expected, "refusal": None}
    *chunks, counted, done = server.events(
        "/v1/chat/completions", body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert done == "[DONE]"
    assert counted["usage"] == found["usage"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "people"}]}]
    assert server.post("/v1/chat/completions", body | {"messages": parts})["choices"] == found["choices"]


def test_sampling_is_the_librarys_with_the_same_seed(server, library):
    lm = library("lm")
    settings = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "max_new_tokens": 8}
    expected = ["".join(lm.stream("hello", seed=5 + choice, **settings)) for choice in range(2)]
    body = {"model": "lm", "prompt": "hello", "max_tokens": 8, "temperature": 1.5, "top_p": 0.9, "seed": 5, "n": 2}
    assert [choice["text"] for choice in server.post("/v1/completions", body)["choices"]] == expected
    *chunks, _ = server.events("/v1/completions", body | {"stream": True})
    texts = ["", ""]
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == expected


def test_texts_end_before_a_stop_string(server, library):
    whole = "".join(library("lm").stream("hello people", do_sample=False, max_new_tokens=12))
    stop = whole[5:7]
    body = {"model": "lm", "prompt": "hello people", "max_tokens": 12, "temperature": 0, "stop": [stop, "never this"]}
    choice = server.post("/v1/completions", body)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (whole[: whole.find(stop)], "stop")
    *chunks, _ = server.events("/v1/completions", body | {"stream": True})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]


def test_logprobs_are_the_models(server, library):
    lm = library("lm")
    body = {"model": "lm", "prompt": "hello people", "max_tokens": 4, "temperature": 0, "logprobs": 3}
    told = server.post("/v1/completions", body)["choices"][0]["logprobs"]
    ids = lm.tokenizer("hello people")["input_ids"]
    new = list(lm.model.generate(input_ids=[ids], do_sample=False, max_new_tokens=4)[0][len(ids) :])
    logits = lm.model(input_ids=[[*ids, *map(int, new)]]).logits[0].astype(np.float64)
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [scores[len(ids) - 1 + place, token] for place, token in enumerate(new)]
    rows(told["token_logprobs"], expected, 1e-4)
    assert all(len(top) <= 3 for top in told["top_logprobs"])
    chat = {"model": "lm", "messages": CHAT, "max_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    content = server.post("/v1/chat/completions", chat)["choices"][0]["logprobs"]["content"]
    *chunks, _ = server.events("/v1/chat/completions", chat | {"stream": True})
    streamed = [token for chunk in chunks for token in (chunk["choices"][0].get("logprobs") or {}).get("content", [])]
    assert streamed == content[: len(streamed)]
    assert len(content[0]["top_logprobs"]) == 2


def test_text_generation_as_hugging_faces_body(server, library):
    lm = library("lm")
    settings = {"do_sample": False, "max_new_tokens": 8}
    expected = "".join(lm.stream("hello people", **settings))
    body = {"inputs": "hello people", "parameters": settings}
    assert server.post("/models/lm", body) == [{"generated_text": expected}]
    full = server.post("/models/lm", body | {"parameters": settings | {"return_full_text": True, "details": True}})[0]
    assert full["generated_text"] == "hello people" + expected
    assert full["details"]["generated_tokens"] == len(full["details"]["tokens"])
    events = server.events("/models/lm", body | {"stream": True})
    assert "".join(event["token"]["text"] for event in events) == expected
    assert events[-1]["generated_text"] == expected
    assert events[-1]["details"]["generated_tokens"] == len(events)


def test_summarization(server, library):
    expected = library("sum")(TEXTS[:2], max_new_tokens=8)
    body = {"inputs": TEXTS[:2], "parameters": {"generate_parameters": {"max_new_tokens": 8}}}
    assert server.post("/models/sum", body) == expected
    assert server.post("/models/sum", {**body, "inputs": TEXTS[0]}) == expected[:1]


def test_a_list_of_any_length_is_answered_in_order(server, library):
    texts = [f"{TEXTS[number % 4]} {number}" * (1 + number % 7) for number in range(700)]
    expected = library("sst")(texts, truncation=True)
    found = server.post("/models/sst", {"inputs": texts, "parameters": {"top_k": 1}})
    assert [row[0]["label"] for row in found] == [row["label"] for row in expected]
    rows([row[0]["score"] for row in found], [row["score"] for row in expected])
    many = [f"{PASSAGES[number % 4]} {number}" for number in range(300)]
    ranked = library("rank", "text-ranking")({"query": TEXTS[0], "passages": many})
    found = server.post("/rerank", {"query": TEXTS[0], "texts": many})
    rows([row["score"] for row in found], [row["score"] for row in ranked])


def test_models_are_listed(server, bundles):
    _, data = server.get("/v1/models")
    assert [model["id"] for model in json.loads(data)["data"]] == list(bundles)
    _, data = server.get("/v1/models/qa")
    assert json.loads(data)["task"] == "question-answering"
    _, data = server.get("/models/emb/info")
    assert json.loads(data)["model_type"] == {"embedding": {"pooling": "mean"}}
