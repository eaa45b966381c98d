"""Names to folders, against a Hub of our own on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import huggingface_hub
import huggingface_hub.constants
import pytest

from untorch import BundleError, IntegrityError, TaskError
from untorch.bundle.hub import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def entry(name: str, content: bytes) -> dict[str, object]:
    """A file as the Hub lists it in a tree."""
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@pytest.fixture
def faults():
    """What the server does to the content of files, by name: a function of (content, bytes to skip)."""
    return {}


@pytest.fixture
def hub(tmp_path, tiny_bundle, faults):
    """A server with the Hub's interface and one repository, `someone/tiny`. Yields (endpoint, requested paths)."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, body):
            path = unquote(urlsplit(self.path).path)
            requested.append(f"{self.command} {path}")
            if path.startswith("/api/models/someone/tiny/tree/"):  # asked for by huggingface_hub since 2.0
                files = [p for p in sorted(tiny_bundle.rglob("*")) if p.is_file()]
                content = json.dumps(
                    [entry(p.relative_to(tiny_bundle).as_posix(), p.read_bytes()) for p in files]
                ).encode()
            elif path.startswith("/api/models/someone/tiny"):
                files = [p.relative_to(tiny_bundle).as_posix() for p in sorted(tiny_bundle.rglob("*")) if p.is_file()]
                answer = {"id": "someone/tiny", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                content = json.dumps(answer).encode()
            elif path.startswith("/api/models/someone/torch-only"):
                answer = {"id": "someone/torch-only", "sha": COMMIT, "siblings": [{"rfilename": "model.safetensors"}]}
                content = json.dumps(answer).encode()
            elif path.startswith(f"/someone/tiny/resolve/{COMMIT}/"):
                name = path.split(f"{COMMIT}/")[1]
                content = (tiny_bundle / name).read_bytes()
                return self._file(content, body, faults.get(name, lambda content: content))
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                return
            self._file(content, body, lambda content: content)

        def _file(self, content, body, fault):
            begin = 0
            if body and (wanted := self.headers.get("Range")):
                requested[-1] += f" {wanted}"
                begin = int(wanted.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.end_headers()
            if body:
                self.wfile.write(fault(content[begin:]))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", requested
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(hub, tmp_path):
    """Run code in a fresh process that sees that server as the Hub. Gives its output; `errors` is what it reported."""

    def run(code, offline=False, **variables):
        environment = {**os.environ, "HF_ENDPOINT": hub[0], "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        environment |= variables
        if offline:
            environment["HF_HUB_OFFLINE"] = "1"
        prelude = "from untorch import pipeline, UntorchError\nfrom untorch.bundle.hub import resolve\n"
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", prelude + code],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert result.returncode == 0, result.stderr
        run.errors = result.stderr
        return result.stdout.strip()

    return run


def test_a_hub_id_is_downloaded_once_and_then_read_offline(hub, ask):
    _, requested = hub
    answer = "print(pipeline(None, 'someone/tiny', precision='fp32')('hello')[0]['label'])"
    first = ask(answer)
    assert first in ("NEGATIVE", "POSITIVE")
    assert any("model.onnx_data" in path for path in requested)
    # Only what a runtime reads: not the other precision's graphs.
    assert not any("int8" in path for path in requested)
    requested.clear()
    assert ask(answer, offline=True) == first
    assert requested == []


def test_downloads_are_pinned_to_the_commit_the_name_stood_for(hub, ask):
    folder = Path(ask("print(resolve('someone/tiny', revision='main'))"))
    assert folder.name == COMMIT
    assert all(COMMIT in path for path in hub[1] if "/resolve/" in path)


DATA = "onnx/model.onnx_data"
ANSWER = "pipeline(None, 'someone/tiny', precision='fp32')('hello')"


def test_downloads_are_checked_by_digest(ask, faults):
    """The connection, or the Hub, gives another byte than the manifest promises."""
    faults[DATA] = lambda content: bytes([content[0] ^ 1]) + content[1:]
    assert ask(error_of(ANSWER)).startswith("IntegrityError")


def test_a_download_that_broke_off_is_resumed(hub, ask, faults):
    """huggingface_hub 2 begins a file anew in the next process: then the answer is all there is to ask for."""
    small = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1000\n"
    faults[DATA] = lambda content: content[: len(content) // 2]
    assert ask(small + error_of(ANSWER)).startswith("BundleError")
    faults.clear()
    hub[1].clear()
    assert "label" in ask(small + f"print({ANSWER})")
    (again,) = [path for path in hub[1] if path.startswith("GET") and DATA in path]
    if int(huggingface_hub.__version__.partition(".")[0]) < 2:
        assert int(again.partition("bytes=")[2].rstrip("-")) > 0


def test_downloads_show_their_progress(ask):
    ask(ANSWER, TQDM_POSITION="-1")  # huggingface_hub's way to ask for bars where there is no terminal
    assert re.search(r"(model\.onnx_data|complete): +100%", ask.errors)  # huggingface_hub 2 has one bar for all files


def error_of(call):
    return f"try: {call}\nexcept UntorchError as error: print(type(error).__name__, error)"


def test_a_repository_without_onnx_says_how_to_export(ask):
    assert "untorch export someone/torch-only" in ask(error_of("resolve('someone/torch-only')"))


def test_an_absent_precision_names_what_there_is(ask):
    assert "no fp16 variant; it has fp32, int8" in ask(error_of("pipeline(None, 'someone/tiny', precision='fp16')"))


def test_an_unknown_repository(ask):
    assert ask(error_of("resolve('no-such-model')")).startswith("BundleError 'no-such-model' is no folder")


def test_offline_and_not_in_the_cache(ask, hub):
    assert ask(error_of("resolve('someone/tiny')"), offline=True).startswith("BundleError 'someone/tiny' is no folder")
    assert hub[1] == []


@pytest.mark.parametrize("base", [OSError, Exception])
@pytest.mark.parametrize("message", ["", "\n[Errno -2] Name or service not known\nand forty lines more"])
def test_a_hub_that_cannot_be_reached_is_a_bundle_error_whatever_http_library_says_so(monkeypatch, base, message):
    """requests' errors are OSErrors; those of httpx and httpx2, which huggingface_hub uses since 1.0, are not."""

    class ConnectError(base):
        pass

    def fail(*_, **__):
        raise ConnectError(message)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    reason = "Name or service not known" if message else "ConnectError"
    with pytest.raises(BundleError, match=f"'nobody/nothing' is no folder.*from the Hub: .*{reason}$"):
        resolve("nobody/nothing")


def test_a_closed_port_in_the_hubs_place_is_a_bundle_error(ask):
    """With the HTTP library that is installed."""
    said = ask(error_of("resolve('nobody/nothing')"), HF_ENDPOINT="http://127.0.0.1:9")
    assert said.startswith("BundleError 'nobody/nothing' is no folder")
    assert len(said.splitlines()) == 1


def test_arguments_of_the_hub_reach_it(monkeypatch, tmp_path):
    seen = {}

    def info(self, name, **given):
        seen["model_info"] = given
        siblings = [SimpleNamespace(rfilename=name) for name in ("sub/onnx/model.onnx", "onnx/model.onnx", "sub/a.txt")]
        return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def snapshot(name, **given):
        seen["snapshot"] = given
        (tmp_path / "sub").mkdir(exist_ok=True)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    asked = {"revision": "v2", "token": "secret", "cache_dir": "/somewhere"}
    assert resolve("some/thing", subfolder="sub", force_download=True, **asked) == tmp_path / "sub"
    assert seen["model_info"] == {"revision": "v2", "token": "secret"}
    patterns = seen["snapshot"].pop("allow_patterns")
    assert {"sub/onnx/model.onnx", "sub/*.json"} <= set(patterns)
    assert "onnx/model.onnx" not in patterns
    assert seen["snapshot"] == {"force_download": True, **asked}
    resolve("some/thing", subfolder="sub", local_files_only=True, **asked)
    assert seen["snapshot"] == {"local_files_only": True, "allow_patterns": ["sub/config.json"], **asked}


def test_a_subfolder_of_a_folder(tiny_bundle, tmp_path):
    assert resolve(tiny_bundle.parent, subfolder=tiny_bundle.name) == tiny_bundle
    with pytest.raises(BundleError, match="has no folder nothing"):
        resolve(tmp_path, subfolder="nothing")
    with pytest.raises(IntegrityError, match="outside the bundle"):
        resolve(tmp_path, subfolder="../elsewhere")


def test_a_folder_is_taken_as_it_is(tiny_bundle):
    assert resolve(tiny_bundle) == tiny_bundle
    assert resolve(str(tiny_bundle)) == tiny_bundle


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c", "folder/"])
def test_a_path_that_is_not_there_never_reaches_the_hub(name):
    with pytest.raises(BundleError, match="there is no folder"):
        resolve(name)


def test_installed_model_packages(tmp_path, tiny_bundle):
    """A package found by its entry points, without being imported."""
    site = tmp_path / "site"
    shutil.copytree(tiny_bundle, site / "some_model/bundle")
    (site / "some_model/__init__.py").write_text("raise RuntimeError('a model package is data, not code')")
    info = site / "some_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[untorch.models]\nsome-model = some_model\n[untorch.default_models]\nfeature-extraction = some_model\n"
    )
    code = (
        "from untorch import pipeline\nfrom untorch.bundle.hub import installed_models\n"
        "print(pipeline('text-classification', 'some-model')('hello')[0]['label'])\n"
        "print(len(pipeline('feature-extraction')('hello')[0]))\n"
        "print(installed_models()['some-model'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    label, tokens, module = result.stdout.split()
    assert label in ("NEGATIVE", "POSITIVE")
    assert int(tokens) >= 3
    assert module == "some_model"
    assert "No model was supplied, defaulted to some_model" in result.stderr


def test_no_default_for_a_task():
    from untorch.bundle.hub import default_model

    with pytest.raises(TaskError, match="no installed package brings a default model for 'fill-mask'"):
        default_model("fill-mask")
