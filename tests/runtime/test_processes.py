"""What happens around a loaded model: forks, the end of the interpreter, and the network that is never touched."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helpers.signing_keys import make_key

LOAD = """
import json, os, sys, threading, time
from untorch import Batcher, BatcherClosedError, UntorchError, pipeline
def load(threads=1): return pipeline(None, sys.argv[1], device="cpu", precision="fp32", threads=threads)
"""

# Anything that could reach another machine ends the process with a traceback.
NO_NETWORK = """
import sys
def audit(event, arguments):
    if event.startswith("socket."):
        raise AssertionError(f"the network was touched: {event}{arguments}")
sys.addaudithook(audit)
import _socket, socket
class Forbidden(_socket.socket):
    def __init__(self, *arguments, **keywords):
        raise AssertionError("a socket was opened")
socket.socket = Forbidden
"""


def python(code, *arguments, timeout=60):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pipeline_used_after_a_fork_is_refused_and_one_loaded_there_works(frozen_bundle, threads):
    code = (
        LOAD
        + f"""
classify = load({threads})
expected = classify("hello world")
child = os.fork()
if child == 0:
    try:
        classify("hello world")
    except UntorchError as error:
        if "loaded before os.fork()" in str(error) and load({threads})("hello world") == expected:
            os._exit(17)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
assert classify("hello world") == expected
"""
    )
    result = python(code, frozen_bundle)
    assert result.returncode == 0, result.stderr


def test_a_batcher_used_after_a_fork_is_refused(frozen_bundle):
    code = (
        LOAD
        + """
batcher = Batcher(load())
expected = batcher("hello world")
child = os.fork()
if child == 0:
    try:
        batcher("hello world", timeout=20)
    except UntorchError as error:
        os._exit(17 if "made before os.fork()" in str(error) else 1)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
assert batcher("hello world") == expected
"""
    )
    result = python(code, frozen_bundle)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05])
def test_the_interpreter_ends_cleanly_in_the_middle_of_requests(frozen_bundle, delay):
    code = (
        LOAD
        + f"""
batcher = Batcher(load(2), max_tokens=64)
def ask():
    try:
        batcher("hello world " * 20)
    except BatcherClosedError:
        pass  # what asks after the end is told so
    asked.release()
asked = threading.Semaphore(0)
threads = [threading.Thread(target=ask, daemon=True) for _ in range(400)]
for thread in threads:
    thread.start()
asked.acquire()
time.sleep({delay})
print("end")
"""
    )
    result = python(code, frozen_bundle)
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_interpreter_ends_cleanly_while_threads_use_a_pipeline(frozen_bundle, threads):
    """A thread that came back from native code after the interpreter had gone would abort the process."""
    code = (
        LOAD
        + f"""
classify = load({threads})
def ask():
    while True:
        classify("hello world " * 20)
        asked.release()
asked = threading.Semaphore(0)
for _ in range(16):
    threading.Thread(target=ask, daemon=True).start()
for _ in range(40):
    asked.acquire()
print("end")
"""
    )
    for _ in range(3):
        result = python(code, frozen_bundle)
        assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")


def test_a_call_after_the_end_began_still_works_in_the_main_thread(frozen_bundle):
    code = "import atexit\natexit.register(lambda: print(classify('hello world')[0]['label']))\n" + LOAD
    result = python(code + "classify = load()", frozen_bundle)
    assert (result.returncode, result.stdout, result.stderr) == (0, "POSITIVE\n", "")


def test_a_fork_while_other_threads_call_ends_cleanly(frozen_bundle):
    code = (
        LOAD
        + """
classify = load()
def ask():
    while True:
        classify("hello world " * 20)
for _ in range(4):
    threading.Thread(target=ask, daemon=True).start()
time.sleep(0.1)
if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    )
    result = python(code, frozen_bundle)
    assert result.returncode == 0, result.stderr


def test_the_guard_sees_the_network():
    attempt = "\nimport urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')"
    assert "AssertionError" in python(NO_NETWORK + attempt).stderr
    attempt = "\nimport _socket\n_socket.socket().connect(('127.0.0.1', 9))"
    assert "the network was touched" in python(NO_NETWORK + attempt).stderr


# What must open no connection, given a path. A command that is added is one line here.
OFFLINE = (
    ["run", "BUNDLE", "hello"],
    ["verify", "BUNDLE"],
    ["sign", "BUNDLE", "--private-key", "KEY.pem", "--signature", "BUNDLE.sig"],
    ["verify", "BUNDLE", "--signature", "BUNDLE.sig", "--public-key", "KEY.pub"],
    ["explain", "BUNDLE", "hello"],
    ["tune", "BUNDLE"],
    ["doctor"],
)


def test_import_load_and_every_command_open_no_socket(frozen_bundle, tmp_path):
    make_key(tmp_path, "KEY")
    commands = [
        [word.replace("BUNDLE", str(frozen_bundle)).replace("KEY", str(tmp_path / "KEY")) for word in command]
        for command in OFFLINE
    ]
    code = (
        NO_NETWORK
        + LOAD
        + """
from untorch.tools import tuning
from untorch.cli import main
print(load()("hello world")[0]["label"])
os.environ["UNTORCH_CACHE"] = sys.argv[1] + ".plans"
# What `tune` measures it measures in processes of their own; one of them is this one, under the guard.
pool = {"precision": "int8", "device": "cpu", "threads": 1, "callers": 1, "max_tokens": 80}
assert list(tuning.measure({"folder": sys.argv[1], "task": "text-classification", "pool": pool}))
for arguments in json.loads(sys.argv[2]):
    assert main(arguments) == 0, arguments
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
# Sockets of native code do not pass Python; on Linux every open one is listed.
if sys.platform == "linux":
    descriptors = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name.isdigit()
                   if os.path.lexists(f"/proc/self/fd/{name}")]
    assert not [target for target in descriptors if target.startswith("socket:")], descriptors
"""
    )
    result = python(code, frozen_bundle, json.dumps(commands))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("POSITIVE\n")
