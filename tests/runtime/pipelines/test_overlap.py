"""Windows side by side: the same answers in the same order, and texts that are tokenized while others run."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.paths import BUNDLE_V1
from untorch import AutoModelForSequenceClassification, SequenceTooLongError, pipeline
from untorch.ort.cuda import queue
from untorch.ort.devices import Device
from untorch.pipelines import overlap

# How long a test waits for what must happen: far longer than it takes.
PATIENCE = 30.0

ITEMS = st.lists(st.text(max_size=5) | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(overlap, "WINDOW", 4)
    monkeypatch.setattr(overlap, "CHUNK", 11)


@pytest.fixture
def on_a_card(monkeypatch):
    """A pipeline that takes itself to be on a card; its session is on the CPU."""
    monkeypatch.setattr(AutoModelForSequenceClassification, "device", Device("cuda:0"))
    return pipeline(model=BUNDLE_V1, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def plain():
    return pipeline(model=BUNDLE_V1, device="cpu", precision="fp32")


def texts(count):
    return ["good " * (1 + (7 * number) % 13) + f"day {number}" for number in range(count)]


@settings(deadline=None)
@given(st.lists(ITEMS.filter(len), max_size=6), st.integers(1, 5))
def test_every_input_gets_its_own_answer_in_its_own_place(chunks, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "WINDOW", window)
        streamed = overlap.streamed(lambda items: [("answer", item) for item in items], chunks)
        expected = [[("answer", item) for item in chunk] for chunk in chunks]
        assert list(streamed) == expected
        assert [overlap.answered(lambda items: [("answer", item) for item in items], one) for one in chunks] == expected


def test_windows_are_under_way_together(small_windows):
    together = threading.Barrier(overlap.AHEAD, timeout=PATIENCE)

    def answer(window):
        together.wait()  # nobody passes before all have come
        return window

    chunk = ["text"] * (4 * overlap.AHEAD * 2)
    assert overlap.answered(answer, chunk) == chunk


def test_a_window_holds_texts_of_about_one_length(small_windows):
    seen = []

    def answer(window):
        seen.append(sorted(map(len, window)))
        return window

    overlap.answered(answer, ["a" * (number % 4) for number in range(16)])
    assert sorted(seen) == [[0] * 4, [1] * 4, [2] * 4, [3] * 4]


def test_an_error_comes_in_place_of_the_answers_and_ends_the_work(small_windows):
    begun = []

    def answer(window):
        begun.append(window)
        if "bb" in window:
            raise ValueError("no")
        return window

    chunks = [["a"] * 4, ["bb"] * 4, *([["c"] * 4] * 50)]
    answered = overlap.streamed(answer, iter(chunks))
    assert next(answered) == ["a"] * 4
    with pytest.raises(ValueError, match="no"):
        next(answered)
    assert len(begun) < len(chunks)


def test_a_stream_that_is_left_leaves_nothing_behind(small_windows):
    answered = overlap.streamed(lambda window: window, ([str(number)] for number in range(10**9)))
    assert [next(answered), next(answered)] == [["0"], ["1"]]
    answered.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("untorch-window")]


def test_lists_and_streams_are_answered_as_without(on_a_card, plain, small_windows):
    given = texts(50)
    expected = plain(given)
    for got in (on_a_card(given), list(on_a_card(text for text in given))):
        assert [answer["label"] for answer in got] == [answer["label"] for answer in expected]
        assert [answer["score"] for answer in got] == pytest.approx([answer["score"] for answer in expected], abs=1e-5)


def test_texts_are_tokenized_while_others_run(on_a_card, small_windows, monkeypatch):
    """The first run waits until the next texts have been tokenized: one after the other, that would never come."""
    tokenized, tokenize, forward = threading.Semaphore(0), on_a_card.tokenizer.encode_ids, on_a_card.model.forward
    first, waited = threading.Lock(), []

    def encode_ids(*given, **named):
        encodings = tokenize(*given, **named)
        tokenized.release()
        return encodings

    def run(feeds, *more):
        if first.acquire(blocking=False):
            waited.append(all(tokenized.acquire(timeout=PATIENCE) for _ in range(2)))
        return forward(feeds, *more)

    monkeypatch.setattr(on_a_card.tokenizer, "encode_ids", encode_ids)
    monkeypatch.setattr(on_a_card.model, "forward", run)
    assert len(on_a_card(texts(20))) == 20
    assert waited == [True]


def test_one_window_is_tokenized_at_a_time(on_a_card, small_windows, monkeypatch):
    at_once, most, tokenize = [], [], on_a_card.tokenizer.encode_ids

    def encode_ids(*given, **named):
        at_once.append(1)
        most.append(len(at_once))
        threading.Event().wait(0.01)
        at_once.pop()
        return tokenize(*given, **named)

    monkeypatch.setattr(on_a_card.tokenizer, "encode_ids", encode_ids)
    on_a_card(texts(40))
    assert max(most) == 1


def test_an_error_names_the_text_by_its_number_in_the_whole_list(on_a_card, small_windows):
    given = texts(30)
    given[23] = "good " * 600
    with pytest.raises(SequenceTooLongError, match="text 23 has"):
        on_a_card(given)


def test_while_a_list_is_answered_the_card_is_run_by_the_thread_that_asked(small_windows, monkeypatch):
    own = queue.RunQueue()
    monkeypatch.setattr(overlap, "run_queue", own)
    ran = []

    def answer(window):
        ran.append(own(threading.current_thread))
        return window

    texts = [str(number) for number in range(40)]
    assert overlap.answered(answer, texts) == texts
    assert overlap.answered(answer, texts) == texts
    assert set(ran) == {threading.current_thread()}
    assert own(threading.current_thread) is threading.current_thread()


def test_a_window_that_fails_does_not_leave_the_others_waiting_for_the_card(small_windows, monkeypatch):
    """They ask this thread to run for them, which has an error to raise by then."""
    own = queue.RunQueue()
    monkeypatch.setattr(overlap, "run_queue", own)
    failed, ended = threading.Event(), []

    def answer(window):
        if "bad" in window:
            failed.set()
            raise ValueError("no")
        failed.wait(PATIENCE)
        threading.Event().wait(0.2)  # the error has arrived by now
        return own(lambda: window)

    def ask():
        with pytest.raises(ValueError, match="no"):
            overlap.answered(answer, ["bad", *["a longer text"] * 40])
        ended.append(True)

    # A daemon, so that a failure is one and does not hang.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert ended
