from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from untorch import Batcher, BatcherClosedError, InputError, SequenceTooLongError, pipeline


@pytest.fixture(scope="module")
def classifier(tiny_bundle):
    return pipeline(None, tiny_bundle, precision="fp32")


TEXTS = [f"{'hello world ' * (i % 9)}number {i}" for i in range(200)]


@pytest.fixture(scope="module")
def expected(classifier):
    return classifier(TEXTS)


def same(answers, expected):
    [answer] = answers  # as for one text alone
    assert answer["label"] == expected["label"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-5)


class Slow:
    """A stand-in for a pipeline whose model is held up until `go` is set; remembers its batches."""

    def __init__(self):
        self.go = threading.Event()
        self.started = threading.Event()
        self.batches = []

    def count_tokens(self, item):
        return len(item)

    def each(self, items, **_):
        self.batches.append(list(items))
        self.started.set()
        assert self.go.wait(10)
        if "bad" in items:
            raise InputError("bad")
        return [item.upper() for item in items]


@pytest.fixture
def slow():
    pipeline = Slow()
    yield pipeline
    pipeline.go.set()


def test_many_threads_get_their_own_answers(classifier, expected):
    with Batcher(classifier) as batcher, ThreadPoolExecutor(64) as callers:
        order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS)) * 5
        for index, answer in zip(order, callers.map(lambda i: batcher(TEXTS[i]), order), strict=True):
            same(answer, expected[index])


def test_many_tasks_get_their_own_answers(classifier, expected):
    async def main():
        with Batcher(classifier, max_queue=50) as batcher:
            return await asyncio.gather(*(batcher.answer(text) for text in TEXTS * 5))

    for answer, other in zip(asyncio.run(main()), expected * 5, strict=True):
        same(answer, other)


def test_texts_that_arrive_while_the_model_is_busy_share_a_batch(slow):
    with Batcher(slow) as batcher, ThreadPoolExecutor(10) as callers:
        first = callers.submit(batcher, "first")
        assert slow.started.wait(5)
        others = [callers.submit(batcher, name) for name in ("a", "b", "c")]
        wait_for(lambda: len(batcher._queue) == 3)
        slow.go.set()
        assert [first.result(), *(other.result() for other in others)] == ["FIRST", "A", "B", "C"]
    assert sorted(slow.batches[1]) == ["a", "b", "c"]


def test_a_batch_stays_under_the_token_limit(slow):
    with Batcher(slow, max_tokens=5) as batcher, ThreadPoolExecutor(10) as callers:
        callers.submit(batcher, "first")
        assert slow.started.wait(5)
        answers = [callers.submit(batcher, name) for name in ("aaa", "bb", "cccc", "dddddddd")]
        wait_for(lambda: len(batcher._queue) == 4)
        slow.go.set()
        for answer in answers:
            answer.result(5)
    assert all(sum(map(len, batch)) <= 5 or len(batch) == 1 for batch in slow.batches)


def test_waiting_for_company(slow):
    slow.go.set()
    with Batcher(slow, max_wait_ms=500, max_tokens=2) as batcher, ThreadPoolExecutor(2) as callers:
        assert list(callers.map(batcher, ["a", "b"])) == ["A", "B"]
    assert len(slow.batches) == 1


def test_a_failing_text_fails_alone(slow):
    with Batcher(slow) as batcher, ThreadPoolExecutor(10) as callers:
        callers.submit(batcher, "first")
        assert slow.started.wait(5)
        good, bad, other = (callers.submit(batcher, name) for name in ("good", "bad", "other"))
        wait_for(lambda: len(batcher._queue) == 3)
        slow.go.set()
        assert (good.result(5), other.result(5)) == ("GOOD", "OTHER")
        with pytest.raises(InputError):
            bad.result(5)


@pytest.mark.parametrize("bad", [None, 3, "a\ud800"])
def test_what_is_not_text_is_refused_at_once(classifier, bad):
    with Batcher(classifier) as batcher:
        with pytest.raises(InputError):
            batcher(bad)
        same(batcher(TEXTS[0]), classifier([TEXTS[0]])[0])


def test_a_text_over_the_limit_fails_by_itself(classifier):
    with Batcher(classifier) as batcher, pytest.raises(SequenceTooLongError):
        batcher("hello " * 500)
    with Batcher(classifier, truncation=True) as batcher:
        same(batcher("hello " * 500), classifier(["hello " * 500], truncation=True)[0])


def test_a_deadline_takes_the_text_out_of_the_queue(slow):
    with Batcher(slow) as batcher, ThreadPoolExecutor(2) as callers:
        callers.submit(batcher, "first")
        assert slow.started.wait(5)
        with pytest.raises(TimeoutError, match="no answer within"):
            batcher("late", timeout=0.05)
        assert not batcher._queue
        slow.go.set()
    assert slow.batches == [["first"]]


def test_a_full_queue_makes_threads_wait(slow):
    with Batcher(slow, max_queue=1) as batcher, ThreadPoolExecutor(3) as callers:
        first = callers.submit(batcher, "first")
        assert slow.started.wait(5)
        second = callers.submit(batcher, "second")
        wait_for(lambda: len(batcher._queue) == 1)
        with pytest.raises(TimeoutError, match="stayed full"):
            batcher("third", timeout=0.05)
        fourth = callers.submit(batcher, "fourth")
        slow.go.set()
        assert [first.result(5), second.result(5), fourth.result(5)] == ["FIRST", "SECOND", "FOURTH"]


def test_cancelled_tasks_leave_no_trace(slow):
    async def main():
        with Batcher(slow, max_queue=2) as batcher:
            tasks = [asyncio.create_task(batcher.answer(name)) for name in "abcdef"]
            await asyncio.to_thread(slow.started.wait, 5)
            await asyncio.sleep(0.05)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks[1:], return_exceptions=True)
            assert batcher.queued == (0, 0)
            last = asyncio.create_task(batcher.answer("last"))
            slow.go.set()
            return await tasks[0], await last

    assert asyncio.run(main()) == ("A", "LAST")
    assert slow.batches[1:] == [["last"]]


def test_a_task_may_have_a_deadline(slow):
    async def main():
        with Batcher(slow) as batcher:
            first = asyncio.create_task(batcher.answer("first"))
            await asyncio.to_thread(slow.started.wait, 5)
            with pytest.raises(TimeoutError):
                await batcher.answer("late", timeout=0.05)
            slow.go.set()
            return await first

    assert asyncio.run(main()) == "FIRST"


def test_closing_answers_what_is_queued_and_refuses_the_rest(slow):
    batcher = Batcher(slow)
    with ThreadPoolExecutor(3) as callers:
        first = callers.submit(batcher, "first")
        assert slow.started.wait(5)
        queued = callers.submit(batcher, "queued")
        wait_for(lambda: len(batcher._queue) == 1)
        closing = callers.submit(batcher.close)
        wait_for(lambda: batcher._closed)
        with pytest.raises(BatcherClosedError):
            batcher("too late")
        slow.go.set()
        assert (first.result(5), queued.result(5)) == ("FIRST", "QUEUED")
        closing.result(5)
    batcher.close()


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@pytest.mark.parametrize("arguments", [{"max_wait_ms": -1}, {"max_tokens": 0}, {"max_queue": 0}])
def test_impossible_settings(classifier, arguments):
    with pytest.raises(InputError):
        Batcher(classifier, **arguments)
