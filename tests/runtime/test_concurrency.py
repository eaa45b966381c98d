"""Threads and asyncio tasks, all at once, on one pipeline and one batcher: every answer right, none lost, none swapped.

`make test` makes 5,000 calls, `make fuzz` 100,000.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers import fuzzing
from helpers.paths import BUNDLE_V1
from untorch import Batcher, InputError, IntegrityError, pipeline

CALLS = 5_000 * (fuzzing.TIMES if fuzzing.is_long() else 1)
THREADS, TASKS = 64, 1_000


@pytest.fixture(scope="module")
def classify():
    return pipeline(None, BUNDLE_V1, precision="fp32", device="cpu", threads=2)


@pytest.fixture(scope="module")
def expected(classify):
    """Texts and their scores, far enough from each other that an answer tells whose it is."""
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(["hello", "world", "hate", "great", "a", "!"], k=rng.randint(1, 20))) for _ in range(600)
    ]
    scores = sorted((answer["score"], text) for text, answer in zip(texts, classify(texts), strict=True))
    apart: dict[str, float] = {}
    last = 0.0
    for score, text in scores:
        if score - last > 5e-5:
            apart[text] = last = score
    assert len(apart) > 200
    return apart


class Callers:
    """Counts what becomes of calls: `right`, `wrong`, or `gave up`."""

    def __init__(self, classify, batcher, expected):
        self.classify, self.batcher = classify, batcher
        self.texts, self.expected = list(expected), expected
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def count(self, text, answers):
        [answer] = answers
        right = abs(answer["score"] - self.expected[text]) < 1e-5
        with self.lock:
            self.counts["right" if right else "wrong"] += 1

    def gave_up(self):
        with self.lock:
            self.counts["gave up"] += 1

    def thread(self, seed, calls):
        rng = random.Random(seed)
        for _ in range(calls):
            text = rng.choice(self.texts)
            if rng.random() < 0.5:
                self.count(text, self.classify(text))
                continue
            try:
                self.count(text, self.batcher(text, timeout=0.0 if rng.random() < 0.05 else None))
            except TimeoutError:
                self.gave_up()

    async def task(self, seed, calls):
        rng = random.Random(f"task {seed}")
        for _ in range(calls):
            text = rng.choice(self.texts)
            answer = asyncio.ensure_future(self.batcher.answer(text))
            if rng.random() < 0.05:
                await asyncio.sleep(rng.random() / 1000)
                answer.cancel()
            try:
                self.count(text, await answer)
            except asyncio.CancelledError:
                self.gave_up()

    async def tasks(self, calls):
        await asyncio.gather(*(self.task(seed, calls) for seed in range(TASKS)))


@pytest.mark.fuzz
def test_every_answer_is_right_and_none_is_lost(classify, expected):
    before = threading.active_count()
    each = -(-CALLS // 2 // THREADS), -(-CALLS // 2 // TASKS)
    with Batcher(classify, max_queue=500) as batcher:
        callers = Callers(classify, batcher, expected)
        loop = threading.Thread(target=lambda: asyncio.run(callers.tasks(each[1])))
        loop.start()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(callers.thread, range(THREADS), [each[0]] * THREADS))
        loop.join()
        assert callers.counts["wrong"] == 0
        assert callers.counts["right"] + callers.counts["gave up"] == each[0] * THREADS + each[1] * TASKS
        assert callers.counts["gave up"] > 0
        # Those who gave up have left nothing behind.
        assert batcher.queued == (0, 0)
        assert not batcher._waiting_tasks
    assert threading.active_count() == before


def test_callers_that_gave_up_are_forgotten(classify):
    """What they asked with is freed, and not kept until the batcher ends."""

    class Text(str):
        __slots__ = ("__weakref__",)

    async def cancelled(batcher, text):
        task = asyncio.create_task(batcher.answer(text))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with Batcher(classify) as batcher:
        texts = [Text("hello world") for _ in range(20)]
        for text in texts[:10]:
            with pytest.raises(TimeoutError):
                batcher(text, timeout=0.0)
        for text in texts[10:]:
            asyncio.run(cancelled(batcher, text))
        batcher("hello")
        traces = [weakref.ref(text) for text in texts]
        del texts, text
        end = time.monotonic() + 10
        while any(trace() for trace in traces) and time.monotonic() < end:
            gc.collect()
            time.sleep(0.01)
        assert not [trace for trace in traces if trace()]


def test_a_replaced_pipeline_answers_from_the_next_batch_on(classify, expected, frozen_bundle):
    """Under load: every answer is the old bundle's or the new one's, and after the change only the new one's."""
    text = next(iter(expected))
    config = frozen_bundle / "config.json"
    config.write_text(config.read_text().replace("POSITIVE", "GOOD").replace("NEGATIVE", "BAD"))
    (frozen_bundle / "untorch.json").unlink()
    seen = set()
    with Batcher(classify) as batcher, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(batcher, text) for _ in range(200)]
        batcher.replace(pipeline("text-classification", frozen_bundle, precision="fp32", device="cpu", threads=1))
        after = [pool.submit(batcher, text) for _ in range(50)]
        seen = {answer.result(30)[0]["label"] for answer in asked}
        assert seen <= {"POSITIVE", "NEGATIVE", "GOOD", "BAD"}
        assert {answer.result(30)[0]["label"] for answer in after[-8:]} <= {"GOOD", "BAD"}
        assert batcher(text)[0]["score"] == pytest.approx(expected[text], abs=1e-5)


def test_a_reload_that_fails_keeps_the_old_pipeline_and_says_why(classify, frozen_bundle):
    with Batcher(classify) as batcher:
        answer = batcher("hello world")
        weights = frozen_bundle / "onnx/model.onnx_data"
        weights.write_bytes(bytes(weights.stat().st_size))
        with pytest.raises(IntegrityError, match="was altered"):
            batcher.replace(pipeline(None, frozen_bundle, precision="fp32", device="cpu", threads=1))
        assert batcher("hello world") == answer


def test_a_pipeline_that_loses_answers_is_an_error_for_everybody(classify):
    class Forgetful:
        count_tokens = staticmethod(len)

        def each(self, items, **_):
            return []

    with Batcher(Forgetful()) as batcher:
        for _ in range(2):
            with pytest.raises(Exception, match="0 answers for 1 texts"):
                batcher("hello", timeout=10)


def test_one_callers_bad_text_is_nobody_elses(classify, expected):
    text = next(iter(expected))
    with Batcher(classify) as batcher, ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(batcher, "hello " * 500 if index % 5 == 0 else text) for index in range(200)]
        for index, answer in enumerate(asked):
            if index % 5 == 0:
                with pytest.raises(InputError):
                    answer.result(30)
            else:
                assert answer.result(30)[0]["score"] == pytest.approx(expected[text], abs=1e-5)
