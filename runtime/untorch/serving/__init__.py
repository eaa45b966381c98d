"""Answers over HTTP: `app(...)` is a plain ASGI application over named bundles, `untorch serve` runs it.

It needs the extra `serve`: pip install 'untorch[serve]'.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from untorch.serving.application import Application


@contextmanager
def needing_the_extra() -> Iterator[None]:
    """Raise DependencyError, which says what to install, where a package of the extra is missing."""
    from untorch.errors import DependencyError

    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("httptools", "orjson", "uvicorn", "uvloop"):
            raise
        raise DependencyError(f"serving needs {error.name}. Run: pip install 'untorch[serve]'") from error


def app(
    models: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None = None, **settings: Any
) -> Application:
    """An ASGI application that serves bundles; mount it in yours, or run it with any ASGI server.

    `models` are bundles by name, one bundle, or None for the installed default. `settings` are those of `untorch serve`
    (`api_key=`, `max_texts=`, …). The models are loaded when the server starts, or with the first request where the
    application is mounted and is not told of the start. Raises InputError for a setting that does not exist.

        app = untorch.serving.app({"sst2": "bundles/sst2", "emb": "bundles/minilm"}, api_key="…")
    """
    from untorch.errors import InputError
    from untorch.serving.settings import ModelSource, Settings

    with needing_the_extra():
        from untorch.serving.application import Application
        from untorch.serving.models import Models
    try:
        chosen = Settings(**settings)
    except InputError:
        raise
    except TypeError as error:
        raise InputError(f"serving has no such setting: {error}") from None
    named: Mapping[str, str | os.PathLike[str] | None]
    named = models if isinstance(models, Mapping) else {"default": models}
    sources = [ModelSource(name, None if path is None else os.fspath(path)) for name, path in named.items()]
    return Application(lambda: Models(sources, chosen), chosen)
