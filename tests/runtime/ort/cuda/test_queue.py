"""Runs go one at a time: in the thread that asks, as long as there is one, and then in the lane's own."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from untorch.ort.cuda.queue import RunQueue


def test_a_lone_thread_runs_by_itself():
    lane = RunQueue()
    assert {lane(threading.get_ident) for _ in range(5)} == {threading.get_ident()}


def test_from_the_second_thread_on_one_thread_runs_for_all():
    lane = RunQueue()
    assert lane(threading.current_thread) is threading.current_thread()
    for _ in range(20):  # a thread a request, as some servers have it
        with ThreadPoolExecutor(1) as pool:
            asking, ran = pool.submit(lambda: (threading.current_thread(), lane(threading.current_thread))).result()
        assert ran is not asking
        assert ran is lane(threading.current_thread)


def test_there_is_never_more_than_one_run():
    lane = RunQueue()
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
    lane = RunQueue()

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        lane(fail)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="no"):
        pool.submit(lane, fail).result()
    assert lane(lambda: 1) == 1


def test_a_waiting_thread_runs_what_is_asked_for_and_then_leaves_it_to_others():
    lane = RunQueue()
    with ThreadPoolExecutor(3) as pool:
        with lane.serving() as wait:
            asked = [pool.submit(lane, threading.current_thread) for _ in range(20)]
            assert {wait(one) for one in asked} == {threading.current_thread()}
        assert lane(threading.current_thread) is threading.current_thread()
        # Nobody serves any more.
        assert pool.submit(lane, threading.current_thread).result() is not threading.current_thread()


def test_what_was_asked_for_while_nobody_waited_is_done_at_the_end():
    lane = RunQueue()
    with ThreadPoolExecutor(1) as pool:
        with lane.serving():
            asked = pool.submit(lane, lambda: "done")
            while lane._jobs.empty():
                threading.Event().wait(0.001)
        assert asked.result(timeout=30) == "done"


def test_only_a_lone_thread_serves():
    lane = RunQueue()
    lane(lambda: None)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(lane, lambda: None).result()
        with lane.serving() as wait:
            ran = wait(pool.submit(lane, threading.current_thread))
    assert ran not in (threading.current_thread(), None)
    assert ran.name == "untorch-gpu"


def test_threads_that_outlive_the_main_one_still_run():
    """The interpreter waits for threads that are no daemons after its main thread has ended."""
    code = """
import threading, time
from untorch.ort.cuda.queue import RunQueue
lane = RunQueue()
lane(lambda: None)
def work():
    threading.main_thread().join()
    time.sleep(0.2)
    print(lane(lambda: "still"), lane(lambda: "running"), flush=True)
threading.Thread(target=work).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("still running\n", 0), done.stderr
