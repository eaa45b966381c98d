from __future__ import annotations

import threading

import pytest

from untorch.background import BackgroundTask


@pytest.mark.parametrize("begun", [True, False])
def test_it_gives_what_the_work_gives_and_raises_what_it_raises(begun):
    def fail():
        raise ValueError("no")

    works, fails = BackgroundTask(threading.get_ident), BackgroundTask(fail)
    if begun:
        works.begin()
        fails.begin()
    assert (works.result() != threading.get_ident()) == begun
    with pytest.raises(ValueError, match="no"):
        fails.result()


def test_it_begins_once():
    count = []
    work = BackgroundTask(lambda: count.append(1))
    work.begin()
    work.begin()
    work.result()
    assert count == [1]
