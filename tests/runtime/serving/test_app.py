"""`untorch.serving.app`: a plain ASGI application, started by its server or mounted in another."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

pytest.importorskip("orjson", reason="the extra `serve` is not installed")

from untorch import InputError, serving


async def ask(app, method, path, body=b"", root="", headers=()):
    sent, told = [], [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if told:
            return told.pop()
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": root + path, "root_path": root, "headers": list(headers)}
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_it_runs_under_any_server_and_behind_a_prefix(bundles, library):
    async def main():
        app = serving.app({"sst": bundles["sst"]}, threads=1)
        assert (await ask(app, "GET", "/health"))[0] == 503  # nobody told it to start
        status, data = await ask(app, "POST", "/predict", b'{"inputs": "nice"}', root="/models-of-ours")
        assert status == 200
        assert (await ask(app, "GET", "/health"))[0] == 200
        await app.stop()
        assert (await ask(app, "POST", "/predict", b'{"inputs": "nice"}'))[0] == 503
        return json.loads(data)

    expected = library("sst")("nice", top_k=None)
    found = asyncio.run(main())
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    assert found[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)


def test_the_lifespan_starts_and_stops_it(bundles, tmp_path):
    async def main(path):
        app = serving.app(path, threads=1)
        asked = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
        sent = []

        async def receive():
            return asked.pop()

        async def send(message):
            sent.append(message)

        await app({"type": "lifespan"}, receive, send)
        return sent

    told = asyncio.run(main(bundles["sst"]))
    assert [message["type"] for message in told] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    (failed,) = asyncio.run(main(tmp_path))
    assert failed["type"] == "lifespan.startup.failed"
    assert str(tmp_path) in failed["message"]


def test_a_setting_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="max_cows"):
        serving.app(tmp_path, max_cows=3)
    with pytest.raises(InputError, match="max_texts is 0"):
        serving.app(tmp_path, max_texts=0)


def test_importing_untorch_imports_nothing_of_the_server():
    code = (
        "import sys, untorch, untorch.pipelines.batcher, untorch.serving; "
        "print([name for name in ('uvicorn', 'orjson', 'uvloop', 'httptools') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_without_the_extra_the_error_says_what_to_install(bundles):
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('uvicorn', 'orjson'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from untorch.cli import main\n"
        f"sys.exit(main(['serve', 'a={bundles['sst']}', '--port', '0']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "pip install 'untorch[serve]'" in done.stderr
    assert "Traceback" not in done.stderr
