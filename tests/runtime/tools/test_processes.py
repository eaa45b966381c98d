"""Jobs in a process of their own: results as they come, and every way in which a process can fail."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from untorch.tools.processes import Child, ChildError

JOBS = """
import os, subprocess, sys, time

def count(job):
    print("not a result")
    os.write(1, b"nor this\\n")
    for number in range(job["to"]):
        yield number
        time.sleep(job.get("pause", 0))

def fail(job):
    yield "before"
    if job:
        raise ValueError(job + "\\nand more")

def end(job):
    print("it is over", file=sys.stderr)
    os._exit(3)

def family(job):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield other.pid
    time.sleep(600)

class Total:
    def __init__(self):
        self.sum = 0

    def __call__(self, job):
        self.sum += job
        return [self.sum]

def environment(job):
    return [os.environ.get(job), os.getcwd(), "untorch" in sys.modules]
"""


@pytest.fixture
def child(tmp_path):
    (tmp_path / "jobs.py").write_text(JOBS)
    made = []

    def start(function, **arguments):
        made.append(Child(f"jobs:{function}", cwd=tmp_path, **arguments))
        return made[-1]

    yield start
    for one in made:
        one.close()


def gone(pid: int) -> bool:
    for _ in range(500):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_results_are_what_the_job_yields_and_not_what_it_prints(child):
    assert list(child("count").ask({"to": 3}, timeout=60)) == [0, 1, 2]


def test_a_result_is_there_before_the_job_is_done(child):
    results = child("count").ask({"to": 2, "pause": 600}, timeout=60)
    assert next(results) == 0


def test_one_process_does_many_jobs_and_keeps_what_a_class_remembers(child):
    total = child("Total")
    assert [list(total.ask(job, timeout=60)) for job in (1, 2, 3)] == [[1], [3], [6]]


def test_an_error_is_told_in_one_line_and_the_next_job_is_done(child):
    process = child("fail")
    results = process.ask("broken", timeout=60)
    assert next(results) == "before"
    with pytest.raises(ChildError, match=r"^ValueError: broken$"):
        next(results)
    assert list(process.ask("", timeout=60)) == ["before"]


@pytest.mark.parametrize(("function", "reason"), [("absent", "AttributeError"), ("end", "code 3: it is over")])
def test_a_process_that_cannot_do_its_job_says_why(child, function, reason):
    process = child(function)
    for _ in range(2):
        with pytest.raises(ChildError, match=reason):
            list(process.ask(None, timeout=60))


def test_what_a_process_prints_goes_to_its_log(child, tmp_path):
    log = tmp_path / "log"
    log.write_text("from before\n")
    list(child("count", log=log).ask({"to": 0}, timeout=60))
    assert log.read_text().splitlines()[0] == "from before"
    assert "nor this" in log.read_text()
    with pytest.raises(ChildError, match="it is over"):
        list(child("end", log=log).ask(None, timeout=60))


def test_a_job_that_takes_too_long_is_ended(child):
    process = child("count")
    results = process.ask({"to": 2, "pause": 600}, timeout=1.5)
    with pytest.raises(ChildError, match="more than 2 s"):
        list(results)
    with pytest.raises(ChildError, match=f"code -{signal.SIGKILL.value}"):
        list(process.ask({"to": 0}, timeout=60))


def test_closing_ends_the_processes_that_the_process_started(child):
    process = child("family")
    pid = next(process.ask(None, timeout=60))
    process.close()
    process.close()
    assert gone(pid)


def test_a_child_that_is_forgotten_is_ended(tmp_path):
    (tmp_path / "jobs.py").write_text(JOBS)
    pid = next(Child("jobs:family", cwd=tmp_path).ask(None, timeout=60))
    assert gone(pid)


def test_a_process_has_the_given_environment_and_has_not_imported_untorch(child, tmp_path):
    process = child("environment", env={**os.environ, "UNTORCH_TEST": "here"})
    assert list(process.ask("UNTORCH_TEST", timeout=60)) == ["here", str(tmp_path), False]
