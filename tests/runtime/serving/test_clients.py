"""The clients that people have, each in its own environment: right answers, and errors that it understands.

`make test-clients` installs them into `.clients` and runs this file; without them a test says so and skips. The
environment variable UNTORCH_CLIENTS names another interpreter that has them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import clients
from helpers.comparing import same
from helpers.tokenizers import MAJOR

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = Path(os.environ.get("UNTORCH_CLIENTS", ROOT / ".clients/bin/python"))
TEXTS, PASSAGES, CHAT = clients.TEXTS, clients.PASSAGES, clients.CHAT


@pytest.fixture(scope="module")
def ask(server):
    """`ask("openai")`: what that client got."""

    def run(name, module=None, python=CLIENTS):
        module = module or name
        if not python.exists():
            pytest.skip("the clients are not installed: make test-clients")
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
            pytest.skip(f"{module} is not installed beside the other clients")
        # huggingface_hub takes a server of one's own for the Hub when it is to be offline.
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")
        }
        done = subprocess.run(
            [python, "-P", clients.__file__, name, server.url],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def rows(ours, theirs):
    np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-5)


def written(library, prompt):
    return "".join(library("lm").stream(prompt, do_sample=False, max_new_tokens=8))


def test_openai(ask, library, bundles):
    found = ask("openai")
    assert found["models"] == list(bundles)
    rows(found["vectors"], library("emb")(TEXTS, normalize=True))
    rows(found["cut"], library("emb")(TEXTS, normalize=True, truncate_dim=8))
    assert found["tokens"] == sum(map(library("emb").count_tokens, TEXTS))
    assert found["completion"] == written(library, "hello people")
    assert found["chat"] == found["streamed"] == written(library, CHAT)
    assert found["usage"][0] == found["usage"][1]
    assert [error["error"] for error in found["errors"]] == ["BadRequestError"] * 3
    assert "--accept-ids" in found["errors"][0]["text"]


@pytest.mark.parametrize("which", ["the newest", "the one beside transformers"])
def test_huggingface_hub(ask, library, which):
    found = ask("huggingface_hub", python=CLIENTS if which == "the newest" else Path(sys.executable))
    assert found["version"].startswith("0." if which != "the newest" and MAJOR < 5 else ("1.", "2."))
    best = library("sst")(TEXTS[0], top_k=None)
    assert [(row["label"], round(row["score"], 4)) for row in found["classified"]] == [
        (row["label"], round(row["score"], 4)) for row in best
    ]
    context = clients.QUESTION["context"]
    expected = library("ner")(context, aggregation_strategy="simple", stride=16)
    assert [(row["entity_group"], row["start"], row["end"]) for row in found["entities"]] == [
        (row["entity_group"], row["start"], row["end"]) for row in expected
    ]
    answer = library("qa")(clients.QUESTION)
    assert {key: found["answer"][key] for key in ("answer", "start", "end")} == {
        key: answer[key] for key in ("answer", "start", "end")
    }
    filled = library("mask")("I love this [MASK]")
    assert [row["token_str"] for row in found["filled"]] == [row["token_str"] for row in filled]
    shot = library("nli", "zero-shot-classification")(TEXTS[0], candidate_labels=["people", "film"])
    assert [row["label"] for row in found["zero_shot"]] == shot["labels"]
    rows([row["score"] for row in found["zero_shot"]], shot["scores"])
    vectors = library("emb")(TEXTS, normalize=True)
    rows(found["vectors"], vectors[:1])
    rows(found["similar"], [float(vectors[0] @ vectors[1])])
    assert found["summary"]["summary_text"] == library("sum")(TEXTS[0], max_new_tokens=8)[0]["summary_text"]
    assert found["written"] == found["streamed"] == found["detailed"] == written(library, "hello people")
    assert found["chat"] == found["chat_streamed"] == written(library, CHAT)
    assert [error["status"] for error in found["errors"]] == [422, 404]
    assert "mask" in found["errors"][0]["text"]


def ranked(library):
    return library("rank", "text-ranking")({"query": TEXTS[0], "passages": PASSAGES})


def test_cohere(ask, library):
    found = ask("cohere")
    expected = ranked(library)
    same(found["second"], [[row["index"], row["score"]] for row in expected[:2]])
    same(found["first"], [[row["index"], row["score"], row["text"]] for row in expected])
    assert found["errors"][0]["status"] == 400
    assert "`query` cannot be empty" in found["errors"][0]["text"]


def test_langchain(ask, library):
    found = ask("langchain_openai")
    rows(found["vectors"], library("emb")(TEXTS, normalize=True))
    rows(found["query"], found["vectors"][0])
    assert found["chat"] == found["streamed"] == written(library, CHAT)
    assert found["errors"][0]["status"] == 400


def test_llama_index(ask, library):
    found = ask("llama_index", "llama_index.embeddings.text_embeddings_inference")
    rows(found["vectors"], library("emb")(TEXTS, normalize=True))
    same(found["ranked"], [[row["text"], row["score"]] for row in ranked(library)])


def test_haystack(ask, library):
    found = ask("haystack")
    vectors = library("emb")(TEXTS)
    rows(found["query"], vectors[0])
    rows(found["vectors"], vectors)
    same(found["ranked"], [[row["text"], row["score"]] for row in ranked(library)])


def test_tritonclient(ask, library):
    found = ask("tritonclient", "tritonclient.http")
    assert (found["live"], found["ready"], found["metadata"]) == (True, True, "sst")
    best = library("sst")(TEXTS, top_k=None)
    names = list(library("sst").model.config.id2label.values())
    scores = [[{row["label"]: row["score"] for row in one}[name] for name in names] for one in best]
    for form in ("binary", "json"):
        labels, told = found[form]
        assert labels == [one[0]["label"] for one in best]
        rows(told, scores)
    assert "texts are BYTES" in found["errors"][0]["text"]
