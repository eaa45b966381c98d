"""What happens around a loaded model: forks, the end of the interpreter, and the network that is never touched."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOAD = """
import os, sys, threading, time
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


def test_the_guard_sees_the_network():
    attempt = "\nimport urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')"
    assert "AssertionError" in python(NO_NETWORK + attempt).stderr
    attempt = "\nimport _socket\n_socket.socket().connect(('127.0.0.1', 9))"
    assert "the network was touched" in python(NO_NETWORK + attempt).stderr


def test_import_load_run_and_verify_open_no_socket(frozen_bundle):
    code = (
        NO_NETWORK
        + LOAD
        + """
from untorch.cli import main
print(load()("hello world")[0]["label"])
for arguments in (["run", sys.argv[1], "hello"], ["verify", sys.argv[1]], ["explain", sys.argv[1], "hi"], ["doctor"]):
    assert main(arguments) == 0, arguments
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
# Sockets of native code do not pass Python; on Linux every open one is listed.
if sys.platform == "linux":
    descriptors = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name.isdigit()
                   if os.path.lexists(f"/proc/self/fd/{name}")]
    assert not [target for target in descriptors if target.startswith("socket:")], descriptors
"""
    )
    result = python(code, frozen_bundle)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("POSITIVE\n")
