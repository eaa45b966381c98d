"""Streams: what has arrived is answered, nothing is lost, and a source that waits holds nothing back."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import deque
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import cases
from untorch import AutoModelForSequenceClassification, pipeline
from untorch.ort.devices import Device
from untorch.pipelines.streams import arrived

BUNDLE = Path(__file__).parents[2] / "data/bundle-v1"
# How long a test waits for what must happen: far longer than it takes.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def classify():
    return pipeline(None, BUNDLE, precision="fp32", device="cpu", threads=1)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """A pipeline that takes itself to be on a GPU; its session is on the CPU."""
    monkeypatch.setattr(AutoModelForSequenceClassification, "device", Device("cuda:0"))
    return pipeline(model=BUNDLE, device="cpu", precision="fp32")


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "untorch-reader"]


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@cases(100)
@given(items=st.lists(st.integers(), max_size=50), most=st.integers(1, 9))
def test_nothing_is_lost_doubled_or_moved(items, most):
    windows = list(arrived(iter(items), most))
    assert [item for window in windows for item in window] == items
    assert all(len(window) <= most for window in windows)


@cases(30)
@given(before=st.lists(st.integers(), max_size=20), most=st.integers(1, 9))
def test_an_error_of_the_source_comes_after_what_came_before_it(before, most):
    def source():
        yield from before
        raise OSError("the disk is gone")

    seen = []
    windows = (seen.extend(window) for window in arrived(source(), most))
    with pytest.raises(OSError, match="gone"):
        deque(windows, maxlen=0)
    assert seen == before


def test_a_source_is_read_ahead_so_far_and_no_further():
    drawn = []
    windows = arrived((drawn.append(number) or number for number in count()), 5)
    first = next(windows)
    wait_for(lambda: len(drawn) >= len(first) + 5)
    time.sleep(0.05)
    assert len(drawn) == len(first) + 5
    windows.close()
    wait_for(lambda: not readers())


def test_that_the_source_waits_is_told_once():
    asked = queue.Queue()
    windows = arrived(iter(asked.get, None), 5)
    asked.put("a")
    assert next(windows) == ["a"]
    assert next(windows) == []
    asked.put("b")
    assert next(windows) == ["b"]
    asked.put(None)
    assert list(windows) in ([], [[]])


def test_a_source_sees_the_callers_context():
    name = contextvars.ContextVar("name")
    name.set("caller")
    assert [item for window in arrived((name.get() for _ in range(3)), 2) for item in window] == ["caller"] * 3


@pytest.mark.parametrize("arguments", [{}, {"batch_size": 1}, {"batch_size": 8}, {"num_workers": 0}])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_next_text_may_wait_for_the_last_answer(classify, on_a_gpu, device, arguments):
    pipe = classify if device == "cpu" else on_a_gpu
    requests, answers = queue.Queue(), queue.Queue()

    def serve():
        for answer in pipe(iter(requests.get, None), **arguments):
            answers.put(answer)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    for text in ("good film", "awful mess", "hello"):
        requests.put(text)
        assert answers.get(timeout=PATIENCE)["score"] == pytest.approx(classify(text)[0]["score"], abs=1e-5)
    requests.put(None)
    server.join(PATIENCE)
    assert not server.is_alive()


def test_a_fast_source_fills_the_windows(classify, monkeypatch):
    sizes, answers = [], classify._answers

    def watched(items, *rest):
        sizes.append(len(items))
        return answers(items, *rest)

    monkeypatch.setattr(classify, "_answers", watched)
    assert len(list(classify(f"text {number}" for number in range(4000)))) == 4000
    assert max(sizes) == classify.stream_window
    assert len(sizes) < 40


def test_without_workers_a_source_is_read_in_the_calling_thread(classify):
    seen = set()

    def source():
        for _ in range(5):
            seen.add(threading.current_thread())
            yield "hello"

    assert len(list(classify(source(), num_workers=0, batch_size=2))) == 5
    assert seen == {threading.current_thread()}


def test_a_stream_that_is_left_leaves_no_thread_behind(classify):
    answers = classify(f"text {number}" for number in count())
    next(answers)
    answers.close()
    wait_for(lambda: not readers())
