"""Runs the application: a socket, the event loop, and the signals that end it or bring new bundles."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from untorch.background import BackgroundTask
from untorch.errors import InputError
from untorch.serving import operations
from untorch.serving.saying import say
from untorch.serving.settings import ModelSource, Settings

# Seconds that connections get to close once nothing is running.
_CLOSING = 1


def bound(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say. Raises InputError where that cannot be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise InputError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    listening.set_inheritable(True)
    return listening


def address(listening: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(
    sources: Sequence[ModelSource],
    settings: Settings,
    listening: socket.socket,
    metrics: Any = None,
    life: int | None = None,
) -> None:
    """Serve until a signal ends it. Raises what loading a model raises.

    `metrics` are shared among replicas; at the end of the pipe `life` the process ends too.
    """

    def load() -> Any:
        from untorch.serving.models import Models

        return Models(sources, settings)

    # The models load while the rest is imported.
    loading = BackgroundTask(load)
    loading.begin()
    import uvloop

    from untorch.serving.application import Application, all_routes
    from untorch.serving.telemetry import Telemetry

    telemetry = None if metrics is None else Telemetry(all_routes(), settings, metrics)
    app = Application(loading.result, settings, telemetry)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, settings, listening, life))


async def _serve(app: Any, settings: Settings, listening: socket.socket, life: int | None) -> None:
    import uvicorn

    from untorch.serving.protocol import connection

    class Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn is not there where types are checked
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are ours

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=connection(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=_CLOSING,
    )
    server = Server(config)
    ending: list[asyncio.Task[None]] = []

    async def drain() -> None:
        app.draining = True
        end = asyncio.get_running_loop().time() + settings.drain_timeout
        while app.running and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        server.should_exit = True

    def end() -> None:
        if ending:
            server.should_exit = True  # asked twice: at once
        else:
            ending.append(asyncio.ensure_future(drain()))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    if life is not None:

        def orphaned() -> None:
            loop.remove_reader(life)
            end()

        loop.add_reader(life, orphaned)
    await app.start()
    loop.add_signal_handler(signal.SIGHUP, _reload, app)
    _tell(app, listening)
    try:
        await server.serve(sockets=[listening])
    finally:
        await app.stop()


def _tell(app: Any, listening: socket.socket) -> None:
    """One line to stderr that the server is ready."""
    served = ", ".join(
        f"{model.name} ({model.task} in {model.pipeline.precision} on {model.pipeline.device})" for model in app.models
    )
    replica = os.environ.get("UNTORCH_SERVE_REPLICA")
    who = f"replica {replica} serves" if replica else "serving"
    say(f"untorch: {who} {served} at {address(listening)}")


_reloads: set[asyncio.Task[None]] = set()


def _reload(app: Any) -> None:
    async def reload() -> None:
        for name, reason in (await operations.reload_all(app)).items():
            say(f"untorch: {name} keeps its old bundle: {reason}")

    task = asyncio.ensure_future(reload())
    _reloads.add(task)
    task.add_done_callback(_reloads.discard)
