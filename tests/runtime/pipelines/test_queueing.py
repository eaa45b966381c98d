"""Which waiting requests run together, and in which order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import cases
from untorch import Batcher
from untorch.pipelines import queueing
from untorch.pipelines.batcher import BatcherClosedError, QueueFullError
from untorch.pipelines.queueing import Request, RequestQueue


def request(tokens, arguments=None, items=1):
    return Request(["x"] * items, tokens * items, tokens, arguments or {})


@cases(100)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 4), st.sampled_from(["a", "b"])), max_size=30))
def test_everything_comes_out_once_in_batches_of_its_like(made):
    queue = RequestQueue()
    requests = [request(tokens, {"top_k": kind}, items) for tokens, items, kind in made]
    for one in requests:
        queue.put(one)
    assert queue.texts == sum(len(one.items) for one in requests)
    out = []
    while queue.texts:
        batch = queue.take(2048)
        assert len(batch) == 1 or sum(one.tokens for one in batch) <= 2048
        assert len({one.arguments["top_k"] for one in batch}) == 1
        longest = [one.longest for one in batch]
        assert max(longest) <= max(queueing.SHORT, 4 * min(longest))
        out += batch
    assert queue.tokens == 0
    assert sorted(map(id, out)) == sorted(map(id, requests))


def test_a_short_text_passes_a_long_document_that_then_has_its_turn(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(queueing.time, "monotonic", lambda: now[0])
    queue = RequestQueue()
    document = request(500)
    queue.put(document)
    now[0] = 0.1
    short = request(10)
    queue.put(short)
    now[0] = 10.0
    late = request(10, {"other": 1})
    queue.put(late)
    assert [queue.take(100)[0] for _ in range(3)] == [short, document, late]


def test_what_is_taken_out_is_not_run():
    queue = RequestQueue()
    first, second = request(5), request(5)
    queue.put(first)
    queue.put(second)
    assert queue.remove(first)
    assert not queue.remove(first)
    assert (queue.texts, queue.tokens) == (1, 5)
    assert queue.take(100) == [second]


class Held:
    """A stand-in for a pipeline that waits until `go` is set and remembers its calls."""

    def __init__(self) -> None:
        self.go, self.started = threading.Event(), threading.Event()
        self.calls: list[tuple[list[Any], dict[str, Any]]] = []

    def count_tokens(self, item):
        return len(item)

    def each(self, items, **arguments):
        self.calls.append((items, arguments))
        self.started.set()
        assert self.go.wait(10)
        return [item.upper() for item in items]


@pytest.fixture
def held():
    made = Held()
    yield made
    made.go.set()


def test_calls_bring_their_own_arguments(held):
    with Batcher(held, truncation=True) as batcher, ThreadPoolExecutor(4) as callers:
        running = callers.submit(batcher, "first")
        held.started.wait(5)
        waiting = [batcher.submit(["a", "b"], top_k=1), batcher.submit(["c"]), batcher.submit(["d"], top_k=1)]
        held.go.set()
        assert [future.result(5) for future in waiting] == [["A", "B"], ["C"], ["D"]]
        assert running.result(5) == "FIRST"
    assert held.calls[1:] == [
        (["a", "b", "d"], {"truncation": True, "top_k": 1}),
        (["c"], {"truncation": True}),
    ]


def test_a_full_queue_refuses_what_is_submitted(held):
    with Batcher(held, max_queue=3, max_queue_tokens=10) as batcher:
        first = batcher.submit(["much more than ten"])  # an empty queue takes what is larger than it
        held.started.wait(5)
        waiting = [batcher.submit(["aa", "bb"])]
        with pytest.raises(QueueFullError, match="2 texts of 4 tokens"):
            batcher.submit(["c", "d"])
        with pytest.raises(QueueFullError):
            batcher.submit(["sevench"])
        waiting.append(batcher.submit(["unbounded text"], bounded=False))
        assert batcher.queued == (3, 18)
        assert waiting[0].cancel()
        assert batcher.queued == (1, 14)
        held.go.set()
        assert first.result(5) == ["MUCH MORE THAN TEN"]
        assert waiting[1].result(5) == ["UNBOUNDED TEXT"]
    with pytest.raises(BatcherClosedError):
        batcher.submit(["late"])


def test_a_queue_that_empties_while_a_batch_waits_for_company_does_not_end_the_batcher(held):
    held.go.set()
    with Batcher(held, max_wait_ms=200) as batcher:
        assert batcher.submit(["gone"]).cancel()
        assert batcher("still here", timeout=10) == "STILL HERE"
