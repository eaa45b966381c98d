"""The process of one engine, as `make bench` starts it: here with untorch and the committed bundle."""

from __future__ import annotations

import pytest

from helpers.paths import BUNDLE_V1, ROOT
from untorch.tools.processes import Child, ChildError


@pytest.fixture
def ask(tmp_path):
    (tmp_path / "untorch").symlink_to(BUNDLE_V1)
    with Child("benchmarks.worker:Work", cwd=ROOT) as child:

        def ask(do, **arguments):
            [found] = child.ask({"do": do, **arguments}, timeout=120)
            return found

        ask.load = {"peer": "untorch-fp32", "model": "tiny", "task": "text-classification", "folder": str(tmp_path)}
        yield ask


def test_an_engine_is_loaded_and_measured(ask):
    loaded = ask("load", **ask.load, text="hello")
    assert loaded["first"] in ("NEGATIVE", "POSITIVE")
    texts = ["hello world", "good"]
    answers = ask("answers", texts=texts)
    assert [label in ("NEGATIVE", "POSITIVE") and 0.5 <= score <= 1 for label, score in answers] == [True, True]
    assert len(ask("latency", texts=texts, calls=7)) == 7
    assert ask("throughput", texts=texts) > 0
    assert ask("callers", texts=texts, count=2, seconds=0.05)["samples"]
    assert [step for step, _ in ask("memory", texts=texts * 4, seconds=60, step=4)] == [0, 4, 8]
    overhead = ask("overhead", texts=texts, calls=5)
    for whole, session, tokenizer in zip(overhead["whole"], overhead["session"], overhead["tokenizer"], strict=True):
        assert whole > session + tokenizer > session > 0
    assert ask("memory_now")["peak"] >= loaded["peak"]


def test_an_engine_that_fails_says_why_and_takes_the_next_job(ask):
    with pytest.raises(ChildError, match="BundleError"):
        ask("load", **{**ask.load, "folder": "/nowhere"}, text="hello")
    assert ask("load", **ask.load, text="hello")["ready"] > 0
