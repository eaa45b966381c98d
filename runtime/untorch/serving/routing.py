"""Which handler answers which path."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from untorch.serving.errors import RefusalError
from untorch.serving.http import Answer, Request

if TYPE_CHECKING:
    from untorch.serving.application import Application

Handler = Callable[["Application", Request], Awaitable[Answer]]
Written = Callable[[RefusalError], tuple[int, Mapping[str, Any]]]

_MODEL = re.compile(r"/models/([^/]+)(/.*)?")


@dataclass(frozen=True)
class Route:
    """A path's handler, and how its errors are written. `public` needs no key; `working` goes to a model."""

    method: str
    path: str
    handler: Handler
    errors: Written
    public: bool = False
    working: bool = True


class Routes:
    """All routes of a server. Raises RefusalError for a path or a method that there is not."""

    def __init__(self, routes: list[Route]) -> None:
        self.all = routes
        self._plain: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        for route in routes:
            if "{" in route.path:
                self._pattern(route.path)[route.method] = route
            else:
                self._plain.setdefault(route.path, {})[route.method] = route

    def _pattern(self, path: str) -> dict[str, Route]:
        pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path))
        for known, methods in self._patterns:
            if known.pattern == pattern.pattern:
                return methods
        self._patterns.append((pattern, {}))
        return self._patterns[-1][1]

    def find(self, method: str, path: str) -> tuple[Route, str | None, dict[str, str]]:
        """The route, the model that the path begins with, and the other parts of the path."""
        methods, model, parts = self._methods(path)
        if method == "OPTIONS":  # a browser asks before a page of another origin may call
            return next(iter(methods.values())), model, parts
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise RefusalError("method", f"{path} takes {' and '.join(methods)}")
        return route, model, parts

    def _methods(self, path: str) -> tuple[dict[str, Route], str | None, dict[str, str]]:
        if (methods := self._plain.get(path)) is not None:
            return methods, None, {}
        for pattern, methods in self._patterns:
            if (found := pattern.fullmatch(path)) is not None:
                return methods, None, found.groupdict()
        if (named := _MODEL.fullmatch(path)) is not None:
            rest = named[2] or "/"
            if not rest.startswith("/models/") and not rest.startswith("/v2"):
                methods, _, parts = self._methods(rest)
                return methods, named[1], parts
        if len(path) > 1 and path.endswith("/"):
            return self._methods(path[:-1])
        raise RefusalError("missing", "there is nothing at this path; GET /openapi.json lists what there is")
