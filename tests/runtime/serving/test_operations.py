"""Running a server: starting, draining, reloading, crowds, clients that vanish, replicas that are killed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.servers import Server

# A few hundred steps of the tiny language model: long enough for something to happen meanwhile.
LONG = {"model": "lm", "prompt": "hello people", "max_tokens": 100, "temperature": 0, "n": 8}


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def test_a_server_ends_after_what_it_is_doing_and_refuses_the_rest(bundles):
    with Server({"lm": bundles["lm"]}, "--threads", "1") as server, ThreadPoolExecutor(2) as callers:
        open_before = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        open_before.request("GET", "/health")
        open_before.getresponse().read()
        running = callers.submit(server.request, "POST", "/v1/completions", LONG)
        wait_for(lambda: server.metric("untorch_streams_running") > 0)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.get("/health/ready")[0] == 503 if server.process.poll() is None else True)
        open_before.request("POST", "/v1/completions", json.dumps(LONG))
        refused = open_before.getresponse()
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert refused.headers["retry-after"] is not None
        status, _, body = running.result(60)
        assert status == 200
        assert len(json.loads(body)["choices"]) == 8
        assert server.process.wait(30) == 0


def test_draining_has_an_end(bundles):
    options = ["--threads", "1", "--drain-timeout", "0.2"]
    with Server({"lm": bundles["lm"]}, *options) as server, ThreadPoolExecutor(1) as callers:
        running = callers.submit(server.request, "POST", "/v1/completions", {**LONG, "n": 32})
        wait_for(lambda: server.metric("untorch_streams_running") > 0)
        assert server.stop() == 0
        running.exception(30)  # broken off, however that shows


def test_a_new_bundle_is_taken_and_a_broken_one_is_not(bundles, tmp_path):
    served = shutil.copytree(bundles["sst"], tmp_path / "bundle")
    key = {"authorization": "Bearer k"}
    with Server({"m": served}, "--api-key", "k", "--threads", "1") as server:
        ask = lambda: server.post("/predict", {"inputs": "a nice movie"}, **key)  # noqa: E731
        first = ask()
        stop, failed, answers = threading.Event(), [], []

        def caller():
            while not stop.is_set():
                try:
                    answers.append(json.dumps(ask()))
                except BaseException as error:
                    failed.append(error)
                    return

        thread = threading.Thread(target=caller)
        thread.start()
        other = tmp_path / "other"
        shutil.copytree(bundles["nli"], other)
        served.rename(tmp_path / "old")
        other.rename(served)
        assert server.post("/admin/reload", {}, **key) == {"reloaded": ["m"]}
        second = ask()
        assert {row["label"] for row in second} == {"contradiction", "neutral", "entailment"}
        # Broken: a file is not what the manifest says.
        graph = next((served / "onnx").glob("*.onnx"))
        graph.write_bytes(graph.read_bytes()[:-1] + b"x")
        status, body = server.refused("/admin/reload", {}, **key)
        assert (status, body["kept"]) == (424, ["m"])
        assert str(tmp_path) not in json.dumps(body)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("keeps its old bundle" in line for line in server.lines))
        assert ask() == second
        stop.set()
        thread.join()
        assert not failed
        assert set(answers) == {json.dumps(first), json.dumps(second)}
        assert server.refused("/admin/reload", {}, authorization="Bearer x")[0] == 401


def test_beyond_the_queue_is_429_with_a_time_to_retry_after(bundles):
    options = ["--threads", "1", "--max-queue-texts", "4", "--max-batch-tokens", "16"]
    with Server({"sst": bundles["sst"]}, *options) as server, ThreadPoolExecutor(64) as callers:
        body = {"inputs": [["good people " * 25]] * 3}
        found = list(callers.map(lambda _: server.request("POST", "/predict", body), range(600)))
        statuses = [status for status, _, _ in found]
        assert set(statuses) == {200, 429}
        refused = next(answer for answer in found if answer[0] == 429)
        assert 1 <= int(refused[1]["retry-after"]) <= 60
        assert json.loads(refused[2])["error_type"] == "Overloaded"
        assert server.metric("untorch_queue_texts") == 0
        assert server.metric('te_request_failure{err="overloaded"}') == statuses.count(429)
        # One that is larger than the queue is taken when nothing else waits.
        assert server.request("POST", "/predict", {"inputs": [["good"]] * 50})[0] == 200


def test_beyond_the_texts_that_may_wait_to_be_written_is_429_too(bundles):
    options = ["--threads", "1", "--max-queue-texts", "2", "--max-streams", "1"]
    with Server({"lm": bundles["lm"]}, *options) as server:
        status, headers, body = server.request("POST", "/v1/completions", {**LONG, "n": 32})
        assert (status, json.loads(body)["error"]["type"]) == (429, "overloaded_error")
        assert 1 <= int(headers["retry-after"]) <= 60
        wait_for(lambda: server.metric("untorch_streams_running") == 0)
        assert server.request("POST", "/v1/completions", {**LONG, "n": 1})[0] == 200


def test_a_client_that_is_gone_frees_its_place(server):
    body = json.dumps({**LONG, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    before = server.metric('untorch_requests_total{route="/v1/completions",status="499"}')
    for _ in range(3):
        with server.connect() as connection:
            connection.sendall(head + body)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    whole = json.dumps(LONG).encode()
    with server.connect() as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole
        )
        wait_for(lambda: server.metric("untorch_streams_running") > 0)
    wait_for(lambda: server.metric("untorch_streams_running") == 0)
    gone = 'untorch_requests_total{route="/v1/completions",status="499"}'
    wait_for(lambda: server.metric(gone) == before + 4)
    assert server.post("/v1/completions", {"model": "lm", "prompt": "a", "max_tokens": 1})["choices"]


def test_short_texts_pass_a_long_list(server):
    many = {"inputs": [["good people live in the city " * 8]] * 3000}
    with ThreadPoolExecutor(1) as callers:
        start = time.monotonic()
        long = callers.submit(server.request, "POST", "/predict", many)
        wait_for(lambda: server.metric("untorch_queue_texts") > 0 or long.done())
        passed = 0
        while not long.done():
            server.post("/predict", {"inputs": "nice"})
            passed += 1
        assert long.result()[0] == 200
        assert passed >= 3, f"{passed} short texts in {time.monotonic() - start} s"


def test_several_models_answer_at_once(server):
    bodies = {
        "/models/sst": {"inputs": "nice movie"},
        "/models/ner": {"inputs": "good people"},
        "/models/emb": {"inputs": "a city"},
        "/models/sum": {"inputs": "hello world", "parameters": {"generate_parameters": {"max_new_tokens": 5}}},
        "/v1/completions": {"model": "lm", "prompt": "a", "max_tokens": 5, "temperature": 0},
    }
    drop = ("id", "created")
    expected = {path: server.post(path, body) for path, body in bodies.items()}

    def ask(path):
        found = server.post(path, bodies[path])
        told = expected[path]
        if isinstance(found, dict):
            found, told = ({key: value for key, value in one.items() if key not in drop} for one in (found, told))
        return found == told

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(ask, list(bodies) * 20))


def test_silent_and_slow_connections_are_cut_off(bundles):
    with Server({"sst": bundles["sst"]}, "--read-timeout", "1", "--keep-alive", "1", "--threads", "1") as server:
        silent = [server.connect() for _ in range(200)]
        begun = server.connect()
        begun.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\n")
        without_body = server.connect()
        without_body.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        assert server.post("/predict", {"inputs": "nice"})
        for connection in [*silent, begun, without_body]:
            data = b""
            while piece := connection.recv(65536):
                data += piece
            assert data.startswith(b"HTTP/1.1 408")
            connection.close()
        wait_for(lambda: len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < 100)
        assert server.post("/predict", {"inputs": "nice"})


def test_a_client_that_does_not_read_is_cut_off(bundles):
    options = ["--write-timeout", "1", "--threads", "1"]
    with Server({"emb": bundles["emb"]}, *options) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps({"inputs": ["nice"] * 20_000}).encode()
        connection.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        wait_for(lambda: b"200" in connection.recv(16, socket.MSG_PEEK), 60)
        time.sleep(3)
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
        except ConnectionResetError:
            pass
        head, _, come = data.partition(b"\r\n\r\n")
        assert len(come) < int(head.rpartition(b"content-length: ")[2].split(b"\r")[0])


@pytest.mark.parametrize(
    "data",
    [
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"X: a\r\n" * 50_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_requests_that_break_http_are_refused(server, data):
    answer = server.raw(data)
    assert answer == b"" or answer[9:12] in (b"400", b"404", b"431"), answer[:200]
    assert server.get("/health")[0] == 200


def test_a_truncated_request_is_dropped(server):
    with server.connect() as connection:
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"inputs": "ni')
    with server.connect() as connection:
        connection.sendall(b"POST /pred")
    assert server.post("/predict", {"inputs": "nice"})


def test_pipelined_requests_are_answered_in_order(server):
    requests = []
    for word in ("nice", "awful"):
        body = json.dumps({"inputs": word}).encode()
        requests.append(
            b"POST /models/sst/predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
    requests.append(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answers = server.raw(b"".join(requests)).split(b"HTTP/1.1 200 OK")[1:]
    assert len(answers) == 3
    for word, answer in zip(("nice", "awful"), answers, strict=False):
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == server.post("/models/sst/predict", {"inputs": word})


def test_the_access_log_never_holds_a_text_and_survives_a_full_disk(bundles):
    with Server({"sst": bundles["sst"]}, "--access-log", "json", "--threads", "1") as server:
        server.post("/predict", {"inputs": "my secret life"}, traceparent="00-abc-def-01")
        server.get("/models/secret/info")
        wait_for(lambda: sum(line.startswith("{") for line in server.lines) == 2)
        first, second = (json.loads(line) for line in server.lines if line.startswith("{"))
        assert (first["route"], first["status"], first["texts"], first["traceparent"]) == (
            "/predict",
            200,
            1,
            "00-abc-def-01",
        )
        assert (second["route"], second["status"], second["model"]) == ("/info", 404, None)
        assert "secret" not in "".join(server.lines)
    command = [sys.executable, "-m", "untorch", "serve", f"sst={bundles['sst']}", "--access-log", "text", "--port"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen([*command, str(port)], stderr=full, stdout=full)
    try:
        wait_for(lambda: answers(port), 60)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(3):
            connection.request("POST", "/predict", '{"inputs": "nice"}')
            response = connection.getresponse()
            response.read()
            assert response.status == 200
        connection.close()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def test_traces_are_passed_on(server):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    _, headers, _ = server.request("POST", "/predict", {"inputs": "nice"}, {"traceparent": trace})
    assert trace.split("-")[1] in headers["traceparent"]


def test_metrics_count_what_was_asked(server):
    _, text = server.get("/metrics")
    families = {line.split(" ")[2] for line in text.decode().splitlines() if line.startswith("# TYPE")}
    assert {
        "te_request_count",
        "te_request_success",
        "te_request_failure",
        "te_queue_size",
        "te_embed_count",
    } <= families
    before = server.metric('untorch_requests_total{route="/embed",status="200"}')
    texts = server.metric("untorch_texts_total")
    server.post("/embed", {"inputs": ["nice", "good"]})
    assert server.metric('untorch_requests_total{route="/embed",status="200"}') == before + 1
    assert server.metric("untorch_texts_total") == texts + 2
    assert server.metric('untorch_request_duration_seconds_count{route="/embed"}') >= before + 1


def test_other_origins_are_let_in_only_where_the_server_was_told(bundles, server):
    asked = {"origin": "https://a.example"}
    _, headers, _ = server.request("POST", "/predict", {"inputs": "nice"}, asked)
    assert "access-control-allow-origin" not in headers
    with Server({"sst": bundles["sst"]}, "--cors-origin", "https://a.example", "--threads", "1") as open_one:
        _, headers, _ = open_one.request("POST", "/predict", {"inputs": "nice"}, asked)
        assert headers["access-control-allow-origin"] == "https://a.example"
        status, headers, _ = open_one.request("OPTIONS", "/predict", headers=asked)
        assert (status, headers["access-control-allow-origin"]) == (204, "https://a.example")


def test_a_replica_that_is_killed_is_replaced(bundles):
    with Server({"sst": bundles["sst"]}, "--replicas", "2", "--threads", "1") as server:
        wait_for(lambda: sum("replica" in line and "serves" in line for line in server.lines) == 2, 60)
        children = _children(server.process.pid)
        assert len(children) == 2
        expected = server.post("/predict", {"inputs": "nice"})
        before = server.metric('untorch_requests_total{route="/predict",status="200"}')
        os.kill(children[0], signal.SIGKILL)
        for _ in range(20):
            assert server.post("/predict", {"inputs": "nice"}) == expected
        wait_for(lambda: len(_children(server.process.pid)) == 2 and children[0] not in _children(server.process.pid))
        wait_for(lambda: sum("replica" in line and "serves" in line for line in server.lines) == 3, 60)
        assert server.metric('untorch_requests_total{route="/predict",status="200"}') == before + 20
        server.process.send_signal(signal.SIGHUP)
        assert server.post("/predict", {"inputs": "nice"}) == expected
        started = _children(server.process.pid)
        assert server.stop() == 0
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def test_replicas_end_with_the_process_that_looks_after_them(bundles):
    with Server({"sst": bundles["sst"]}, "--replicas", "2", "--threads", "1") as server:
        started = _children(server.process.pid)
        server.process.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing-of-that-name/at/all"], "there is no folder"),
        (["--port", "99999"], "port is 99999"),
        (["--port", "many"], "--port is 'many'; it is a int"),
        (["--replicas", "0"], "replicas is 0"),
        (["--access-log", "loud"], "access_log is 'loud'"),
        (["--api-key", ""], "api_key is empty"),
        (["--task", "x=text-classification"], "which is no model here"),
        (["a=models", "a=models"], "two models are named a"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "untorch", "serve", *arguments], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_taken_is_named(server):
    done = subprocess.run(
        [sys.executable, "-m", "untorch", "serve", "--port", str(server.port)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}" in done.stderr


def test_settings_come_from_a_file_the_environment_and_the_command_line(bundles, tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text(
        f"max_texts = 2\nmax_text_chars = 7\napi_key = 'from the file'\n[models]\none = '{bundles['sst']}'\n"
        f"two = {{ bundle = '{bundles['nli']}', task = 'zero-shot-classification' }}\n"
    )
    environment = {"UNTORCH_MAX_TEXT_CHARS": "9", "UNTORCH_API_KEY": "k", "UNTORCH_THREADS": "1"}
    with Server(None, "--config", str(file), "--max-text-chars", "11", environment=environment) as server:
        key = {"authorization": "Bearer k"}
        models = json.loads(server.request("GET", "/v1/models", headers=key)[2])["data"]
        assert [(model["id"], model["task"]) for model in models] == [
            ("one", "text-classification"),
            ("two", "zero-shot-classification"),
        ]
        assert server.request("POST", "/models/one", {"inputs": "a" * 11}, key)[0] == 200
        assert server.request("POST", "/models/one", {"inputs": "a" * 12}, key)[0] == 413
        assert server.request("POST", "/models/one", {"inputs": ["a"] * 3}, key)[0] == 413
