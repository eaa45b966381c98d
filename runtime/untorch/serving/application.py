"""The ASGI application: finds the route, holds the request to its limits, and turns every error into an answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from untorch.errors import InputError, UntorchError
from untorch.serving import errors, inference_api, kserve, openai, operations, rerank, tei
from untorch.serving.errors import RefusalError
from untorch.serving.http import Answer, Message, Receive, Request, Scope, Send, answer
from untorch.serving.models import Models
from untorch.serving.routing import Route, Routes
from untorch.serving.settings import Settings
from untorch.serving.telemetry import Telemetry

_log = logging.getLogger("untorch.serving")

_TIMEOUT = b"x-request-timeout"


def all_routes() -> Routes:
    """The routes of all protocols."""
    rooms = (operations, tei, openai, rerank, inference_api, kserve)
    return Routes([route for room in rooms for route in room.ROUTES])


class Application:
    """An ASGI application over `load`'s models, which are loaded when it starts or, without a start, when asked."""

    def __init__(self, load: Callable[[], Models], settings: Settings, telemetry: Telemetry | None = None) -> None:
        self.settings = settings
        self.routes = all_routes()
        self.telemetry = telemetry or Telemetry(self.routes, settings)
        # Tokenizing and loading for requests that are no matter of a batch.
        self.pool = ThreadPoolExecutor(2, "untorch-serving")
        self.draining = False
        self.running = 0
        self._load = load
        self._models: Models | None = None
        self._loading: asyncio.Task[None] | None = None
        self._key = None if settings.api_key is None else b"Bearer " + settings.api_key.encode()

    @property
    def models(self) -> Models:
        """The loaded models. Raises RefusalError while they are loading."""
        if self._models is None:
            raise RefusalError("unready", "the models are still loading", retry_after=1)
        return self._models

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._models is not None and not self.draining

    async def start(self) -> None:
        """Load the models; raises what loading raises."""
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._start())
        await asyncio.shield(self._loading)

    async def _start(self) -> None:
        self._models = await asyncio.get_running_loop().run_in_executor(self.pool, self._load)

    async def stop(self) -> None:
        """Answer what waits, and let the models go."""
        self.draining = True
        if self._models is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._models.close)
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (`http`), or start and stop with the server (`lifespan`)."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except UntorchError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        request = Request(scope, receive, self.settings, path or "/")
        started = False

        async def tell(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        route: Route | None = None
        self.running += 1
        try:
            with self.telemetry.span(request) as headers:
                try:
                    route, model, request.parts = self.routes.find(request.method, request.path)
                    found = await self._answer(route, request, model)
                except Exception as error:
                    found = self._refused(error, route, request)
                found.headers += headers + self._cross_origin(request)
                status = found.status
                await found.send(tell)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if request.left is None or task is None:
                raise
            task.uncancel()
            status = 504 if request.left == "late" else 499
            if request.left == "late" and not started:
                refusal = RefusalError("late", "there was no answer in time (--request-timeout, x-request-timeout)")
                await self._written(refusal, route).send(send)
        except Exception:
            # A stream that broke off: its client sees that it has no end.
            status = 500
            _log.exception("a stream of %s broke off", request.path)
            raise
        finally:
            self.running -= 1
            request.unwatch()
        self.telemetry.done(request, route, status, time.perf_counter() - start)

    async def _answer(self, route: Route, request: Request, model: str | None) -> Answer:
        if request.method == "OPTIONS":
            return Answer(b"", 204)
        if self._key is not None and not route.public:
            given = request.headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._key):
                raise RefusalError("key", "the API key is missing or wrong; send it as `Authorization: Bearer KEY`")
        if route.working:
            if self.draining:
                raise RefusalError("unready", "the server is about to end", retry_after=1)
            if self._models is None:
                await self.start()
            request.watch(self._seconds(request))
        if model is not None:
            request.model = self.models.get(model).name
        return await route.handler(self, request)

    def _seconds(self, request: Request) -> float:
        """How long the request may take: as the server says, or less where the client says so."""
        given = request.headers.get(_TIMEOUT)
        most = self.settings.request_timeout
        if given is None:
            return most
        try:
            seconds = float(given)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise RefusalError("invalid", "x-request-timeout is a number of seconds above 0", field="x-request-timeout")
        return min(seconds, most)

    def _refused(self, error: Exception, route: Route | None, request: Request) -> Answer:
        if isinstance(error, RefusalError):
            refusal = error
        elif isinstance(error, InputError):
            refusal = RefusalError("invalid", self._clean(error))
        elif isinstance(error, UntorchError):
            _log.error("%s failed: %s", request.path, error)
            refusal = RefusalError("failed", "the model could not answer; the server's log says why")
        else:
            _log.error("%s failed", request.path, exc_info=error)
            refusal = RefusalError("failed", "the server failed; its log says why")
        return self._written(refusal, route)

    def _written(self, refusal: RefusalError, route: Route | None) -> Answer:
        status, body = (route.errors if route is not None else errors.tei)(refusal)
        headers = refusal.headers
        if refusal.kind in ("large", "slow", "malformed", "unready"):
            # What is left of the body is not read.
            headers.append((b"connection", b"close"))
        return answer(body, status, headers)

    def _clean(self, error: Exception) -> str:
        message = str(error)
        for model in self._models or ():
            message = model.clean(Exception(message))
        return message

    def _cross_origin(self, request: Request) -> list[tuple[bytes, bytes]]:
        allowed = self.settings.cors_origin
        if allowed is None or b"origin" not in request.headers:
            return []
        return [
            (b"access-control-allow-origin", allowed.encode()),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, x-request-timeout"),
            (b"vary", b"origin"),
        ]

    async def in_pool(self, work: Callable[[], Any]) -> Any:
        """Do something that takes time beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)
