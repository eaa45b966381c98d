"""Runs go one at a time: in the thread that asks, as long as there is one, and then in the lane's own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from untorch.lane import Lane


def test_a_lone_thread_runs_by_itself():
    lane = Lane()
    assert {lane(threading.get_ident) for _ in range(5)} == {threading.get_ident()}


def test_from_the_second_thread_on_one_thread_runs_for_all():
    lane = Lane()
    assert lane(threading.current_thread) is threading.current_thread()
    for _ in range(20):  # a thread a request, as some servers have it
        with ThreadPoolExecutor(1) as pool:
            asking, ran = pool.submit(lambda: (threading.current_thread(), lane(threading.current_thread))).result()
        assert ran is not asking
        assert ran is lane(threading.current_thread)


def test_there_is_never_more_than_one_run():
    lane = Lane()
    running, most = [], []

    def work():
        running.append(1)
        most.append(len(running))
        threading.Event().wait(0.001)
        running.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: lane(work), range(80)))
    assert max(most) == 1
    assert len(most) == 80


def test_what_a_run_raises_is_raised_where_it_was_asked_for():
    lane = Lane()

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        lane(fail)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="no"):
        pool.submit(lane, fail).result()
    assert lane(lambda: 1) == 1
