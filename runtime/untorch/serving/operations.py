"""Routes for those who run the server: health, metrics, reload, the interface's description, and the page."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from untorch.errors import UntorchError
from untorch.serving import errors
from untorch.serving.errors import RefusalError
from untorch.serving.http import TEXT, Answer, Request, answer
from untorch.serving.routing import Route

if TYPE_CHECKING:
    from untorch.serving.application import Application

# Set in a replica: the process that looks after all of them.
SUPERVISOR = "UNTORCH_SERVE_SUPERVISOR"

# The page is one file that talks to its own server alone; its script and style are known by their digests.
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def live(app: Application, request: Request) -> Answer:
    """The process answers."""
    return Answer(b"", kind=TEXT)


async def ready(app: Application, request: Request) -> Answer:
    """The models are loaded, and the server is not about to end."""
    if not app.ready:
        raise RefusalError("unready", "the server is about to end" if app.draining else "the models are still loading")
    return Answer(b"", kind=TEXT)


async def metrics(app: Application, request: Request) -> Answer:
    """Prometheus' text."""
    telemetry = app.telemetry
    queued = [model.batcher.queued for model in app.models]
    telemetry.queued_texts.set(sum(texts for texts, _ in queued))
    telemetry.te_queue_size.set(sum(texts for texts, _ in queued))
    telemetry.streams.set(sum(model.streams.running for model in app.models if model.streams is not None))
    telemetry.queued_tokens.set(sum(tokens for _, tokens in queued))
    return Answer(telemetry.metrics.render(), kind=b"text/plain; version=0.0.4; charset=utf-8")


async def reload(app: Application, request: Request) -> Answer:
    """Take the bundles that lie in the old ones' places; only on a server with a key."""
    if app.settings.api_key is None:
        raise RefusalError("missing", "reloading over HTTP needs a server with a key (--api-key); or send it SIGHUP")
    failed = await reload_all(app)
    if failed:
        return answer({"error": "; ".join(failed.values()), "error_type": "Backend", "kept": sorted(failed)}, 424)
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor and supervisor == str(os.getppid()):
        os.kill(os.getppid(), signal.SIGHUP)
    return answer({"reloaded": [model.name for model in app.models]})


async def reload_all(app: Application) -> dict[str, str]:
    """Load every model anew. Gives the names of those that kept their old bundle, and why."""
    failed = {}
    for model in app.models:
        try:
            await app.in_pool(model.reload)
        except UntorchError as error:
            failed[model.name] = model.clean(error)
    return failed


@cache
def _file(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()


async def description(app: Application, request: Request) -> Answer:
    """The interface, as OpenAPI 3.1."""
    return Answer(_file("openapi.json"))


async def page(app: Application, request: Request) -> Answer:
    """A page to try the models in a browser."""
    headers = [
        (b"content-security-policy", _page_policy().encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-cache"),
    ]
    return Answer(_file("page.html"), kind=b"text/html; charset=utf-8", headers=headers)


@cache
def _page_policy() -> str:
    import base64
    import hashlib

    text = _file("page.html").decode()
    digests = {}
    for kind in ("script", "style"):
        inner = text.split(f"<{kind}>", 1)[1].split(f"</{kind}>", 1)[0]
        digests[kind] = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
    return f"{_POLICY}; script-src 'sha256-{digests['script']}'; style-src 'sha256-{digests['style']}'"


def _get(path: str, handler: object, *, public: bool = True) -> Route:
    return Route("GET", path, handler, errors.tei, public=public, working=False)  # type: ignore[arg-type]


ROUTES = [
    _get("/", page),
    _get("/health", ready),
    _get("/health/live", live),
    _get("/health/ready", ready),
    _get("/ping", ready),
    _get("/metrics", metrics),
    _get("/openapi.json", description),
    Route("POST", "/admin/reload", reload, errors.tei, working=False),
]
