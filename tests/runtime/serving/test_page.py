"""The page in a real browser: each task is driven, and the answer read from the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import servers

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = Path(os.environ.get("UNTORCH_CLIENTS", ROOT / ".clients/bin/python"))
PAGE = ROOT / "runtime/untorch/serving/page.html"


def test_the_page_names_no_other_host_and_runs_only_its_own_script(server):
    status, headers, body = server.request("GET", "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'")
    assert "unsafe" not in policy
    assert body == PAGE.read_bytes()
    assert not re.search(rb"(https?:)?//[a-z]|innerHTML|\son[a-z]+=|<script src|\sstyle=", body)


@pytest.fixture(scope="module")
def shown(server, tmp_path_factory):
    if not CLIENTS.exists() or subprocess.run([CLIENTS, "-c", "import selenium"], capture_output=True).returncode:
        pytest.skip("selenium is not installed beside the clients: make test-clients")
    if not shutil.which("chromedriver") or not shutil.which("chromium"):
        pytest.skip("there is no chromium with its chromedriver: apt-get install chromium chromium-driver")
    folder = Path(os.environ.get("UNTORCH_PICTURES") or tmp_path_factory.mktemp("pictures"))
    script = Path(servers.__file__).with_name("browser.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [CLIENTS, "-P", script, server.url, folder], capture_output=True, text=True, timeout=900, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


VIEWS = ["desktop light", "desktop dark", "phone light", "phone dark"]


SHOWN = [
    "sst (text-classification)",
    "ner (token-classification)",
    "qa (question-answering)",
    "mask (fill-mask)",
    "nli (text-classification)",
    "nli (zero-shot-classification)",
    "rank (text-classification)",
    "rank (text-ranking)",
    "emb (sentence-embeddings)",
    "lm (text-generation)",
    "sum (summarization)",
]


@pytest.mark.parametrize("view", VIEWS)
def test_every_task_shows_the_librarys_answer(shown, library, view):
    page = shown[view]
    assert page["log"] == []
    assert [name for name in page if "(" in name] == SHOWN
    assert not any(page[name]["bad"] for name in SHOWN), page
    text = "I've been waiting for this my whole life."
    assert page[SHOWN[0]]["bars"] == bars(library("sst")(text, top_k=None), "label")
    people = "Ada Lovelace lives in London and works with Charles Babbage."
    entities = library("ner")(people, aggregation_strategy="simple", stride=16)
    marks = page[SHOWN[1]]["marks"]
    assert marks == [people[row["start"] : row["end"]] + row["entity_group"] for row in entities]
    context = "Good people live in the city, and the film was made in the country."
    answer = library("qa")({"question": "Who lives in the city?", "context": context})
    assert page[SHOWN[2]]["marks"] == [answer["answer"]]
    assert page[SHOWN[3]]["bars"] == bars(library("mask")("This movie is [MASK]."), "token_str")
    labels = ["travel", "sport", "politics"]
    shot = library("nli", "zero-shot-classification")("The train leaves at eight.", candidate_labels=labels)
    assert [row[0] for row in page[SHOWN[5]]["bars"]] == shot["labels"]
    passages = ["Berlin is known for its museums.", "Berlin has 3.7 million inhabitants.", "The city lives."]
    ranked = library("rank", "text-ranking")({"query": "How many people live in Berlin?", "passages": passages})
    assert [row[0] for row in page[SHOWN[7]]["bars"]] == [f"{i + 1}. {row['text']}" for i, row in enumerate(ranked)]
    vectors = library("emb")(
        ["A cat sits on the mat.", "The kitten rests on a rug.", "Shares fell on Monday."], normalize=True
    )
    cells = page[SHOWN[8]]["cells"][1:]
    assert cells == [f"{value:.2f}" for value in (vectors @ vectors.T).ravel()]
    assert page[SHOWN[9]]["said"][0] == "Hello! Who are you?"
    assert page[SHOWN[9]]["said"][1]
    summary = library("sum")("Hello world, you have been waiting for a course your whole life.")[0]["summary_text"]
    assert page[SHOWN[10]]["texts"][0].split() == summary.split()


def bars(rows, name):
    return [[row[name], f"{100 * row['score']:.1f} %"] for row in rows]


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_fits_and_can_be_used_by_keyboard(shown, view):
    page = shown[view]
    assert not any(page[name]["overflows"] for name in SHOWN)
    assert page["tabs"] == ["model", "field-text", "go"]
    levels = [int(level) for level in re.findall(r"\d+", page["background"])[:3]]
    assert (max(levels) < 80) == view.endswith("dark")


def test_the_shown_programs_run(shown):
    for name in (SHOWN[0], SHOWN[2], SHOWN[8]):
        told = shown["desktop light"][name]
        from_python = subprocess.run([sys.executable, "-c", told["python"]], capture_output=True, text=True, timeout=60)
        assert from_python.returncode == 0, from_python.stderr
        if shutil.which("curl"):
            from_curl = subprocess.run(["sh", "-c", told["curl"]], capture_output=True, text=True, timeout=60)
            assert repr(json.loads(from_curl.stdout)) == from_python.stdout.strip()
