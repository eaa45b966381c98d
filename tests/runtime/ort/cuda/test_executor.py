"""The GPU's executor on a session of the CPU's: the same code, with its buffers in the host's memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.paths import BUNDLE_V1
from untorch.ort.cuda import libraries, queue
from untorch.ort.cuda.buckets import Bucket
from untorch.ort.cuda.executor import CudaExecutor
from untorch.ort.devices import Device
from untorch.ort.session import Session

SHAPES = st.lists(st.tuples(st.integers(1, 10), st.integers(1, 60)), min_size=1, max_size=6)


CPU = Device("cpu")


class OnTheHost(CudaExecutor):
    """Its buffers lie where its device's do: it is told the CPU."""

    def _fetched(self, value):
        return value.numpy().copy()  # in the host's memory, `numpy` is a view


@pytest.fixture(autouse=True, scope="module")
def host_memory():
    with pytest.MonkeyPatch.context() as patch:
        # Whatever is not written over would be seen.
        patch.setattr(libraries, "pinned", lambda shape, dtype, gpu: np.full(shape, 7, dtype))
        yield


@pytest.fixture(autouse=True)
def own_queue(monkeypatch):
    monkeypatch.setattr("untorch.ort.cuda.executor.run_queue", queue.RunQueue())


@pytest.fixture(scope="module")
def session():
    return Session(BUNDLE_V1 / "onnx/model.onnx", device="cpu")


@pytest.fixture(scope="module")
def names(session):
    return [tensor.name for tensor in session.outputs]


def executor(session, *, graphs=True, limit=64):
    made = OnTheHost(session.executor.session, CPU, session.inputs, session.outputs, graphs=graphs)
    made.capture(limit, {})
    return made


def batch(rows, length, seed=0):
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(1, length + 1, rows)[:, None]).astype(np.int64)
    ids = np.where(mask, rng.integers(5, 90, mask.shape), 0)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": mask * rng.integers(0, 2, mask.shape)}


def close(names, got, expected, mask):
    for name, have, want in zip(names, got, expected, strict=True):
        assert have.shape == want.shape
        real = mask != 0 if want.ndim == 3 else ...
        np.testing.assert_allclose(have[real], want[real], atol=1e-5, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.booleans())
def test_runs_through_kept_buffers_are_runs(session, names, shapes, graphs):
    """Whatever ran before, and whether its shape was captured or too large for that."""
    made = executor(session, graphs=graphs)
    for seed, (rows, length) in enumerate(shapes):
        feeds = batch(rows, length, seed)
        close(names, made.run(feeds, names), session.run(feeds, names), feeds["attention_mask"])


def test_answers_are_the_callers_own(session, names):
    made = executor(session)
    first = made.run(batch(1, 9), names)
    kept = [array.copy() for array in first]
    made.run(batch(1, 9, seed=1), names)
    made.run(batch(9, 50), names)
    for array, before in zip(first, kept, strict=True):
        assert np.array_equal(array, before)


def test_no_more_shapes_are_captured_than_there_are_buckets(session, names):
    made = executor(session)
    for seed in range(40):
        made.run(batch(1 + seed % 8, 1 + seed % 60, seed), names)
    assert 0 < len(made._captured) <= len(made.buckets)
    assert {bucket for bucket, _ in made._captured} <= set(made.buckets)


def test_another_thread_captures_anew_and_gets_its_own_answers(session, names):
    made = executor(session)
    feeds = [batch(1, 9, seed) for seed in range(4)]
    expected = [session.run(one, names) for one in feeds]
    made.run(feeds[0], names)
    [captured] = made._captured.values()
    assert captured.captured_by is threading.current_thread()
    wrong = []

    def elsewhere(one, want):
        try:
            close(names, made.run(one, names), want, one["attention_mask"])
        except AssertionError as error:
            wrong.append(error)

    threads = [threading.Thread(target=elsewhere, args=both) for both in zip(feeds, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert made._captured == {next(iter(made._captured)): captured}
    assert captured.captured_by not in (threading.current_thread(), *threads)


def test_nothing_is_captured_while_a_session_is_opened(session, names):
    made = executor(session)
    feeds = batch(1, 9)
    expected = session.run(feeds, names)
    with queue.allocating:
        close(names, made.run(feeds, names), expected, feeds["attention_mask"])
        assert not made._captured
    close(names, made.run(feeds, names), expected, feeds["attention_mask"])
    assert all(made._captured.values())


def test_where_capturing_fails_the_run_goes_without(session, names, caplog):
    class Refusing:
        """A session that captures nothing."""

        def __init__(self):
            self.asked = 0

        def io_binding(self):
            return session.executor.session.io_binding()

        def run_with_iobinding(self, binding, options):
            if options.get_run_config_entry("gpu_graph_id") != "-1":
                self.asked += 1
                raise RuntimeError("operation not permitted when stream is capturing")
            session.executor.session.run_with_iobinding(binding, options)

    refusing = Refusing()
    made = OnTheHost(refusing, CPU, session.inputs, session.outputs, graphs=True)
    made.capture(64, {})
    feeds = batch(1, 9)
    for _ in range(3):
        close(names, made.run(feeds, names), session.run(feeds, names), feeds["attention_mask"])
    assert refusing.asked == 2  # once more, in case something else broke it off
    assert "could be captured for 1 rows of 16 tokens: operation not permitted" in caplog.text


def test_an_output_of_unknown_size_is_left_to_onnx_runtime(session, names):
    outputs = [type(tensor)(tensor.name, tensor.dtype, ("anything", *tensor.axes[1:])) for tensor in session.outputs]
    made = OnTheHost(session.executor.session, CPU, session.inputs, outputs, graphs=True)
    made.capture(64, {})
    feeds = batch(2, 9)
    close(names, made.run(feeds, names), session.run(feeds, names), feeds["attention_mask"])
    assert set(made._captured.values()) == {None}


def test_rows_do_not_grow_where_an_output_could_not_be_cut_back(session, names):
    outputs = [
        type(tensor)(tensor.name, tensor.dtype, (tensor.axes[0], "anything", *tensor.axes[2:]))
        for tensor in session.outputs
    ]
    made = OnTheHost(session.executor.session, CPU, session.inputs, outputs, graphs=True)
    made.capture(64, {})
    feeds = batch(2, 9)
    close(names, made.run(feeds, names), session.run(feeds, names), feeds["attention_mask"])


def test_nothing_is_captured_of_a_graph_that_was_opened_without(session):
    assert executor(session, graphs=False).buckets == ()


def test_the_chosen_bucket_is_the_one_that_runs(session, names):
    made = executor(session)
    made.run(batch(3, 20), names)
    assert [bucket for bucket, _ in made._captured] == [Bucket(4, 32)]


def test_what_others_bind_runs_in_turn_and_without_a_graph(session, names, monkeypatch):
    """What generates binds its own values; all of it is done by the thread whose turn it is."""
    feeds = batch(2, 9)
    expected = session.run(feeds, names)
    monkeypatch.setattr(session, "executor", executor(session))
    for _ in range(2):
        arrays, values = session.run_values(feeds, names[:1], names[1:])
        close(names, [*arrays, *(value.numpy() for value in values)], expected, feeds["attention_mask"])
    assert not session.executor._captured
