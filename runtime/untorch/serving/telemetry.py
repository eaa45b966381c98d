"""What a server tells of itself: metrics, an access log without the users' texts, and traces."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from untorch.serving.http import Headers, Request, dumps
from untorch.serving.metrics import DURATIONS, SIZES, Metrics
from untorch.serving.routing import Route, Routes
from untorch.serving.saying import say
from untorch.serving.settings import Settings

_STATUSES = (200, 204, 400, 401, 404, 405, 408, 413, 422, 424, 429, 499, 500, 503, 504)
# What a failure is called in Text Embeddings Inference's metrics.
_FAILURES = {
    400: "validation",
    413: "batch_size",
    422: "validation",
    424: "model_type",
    429: "overloaded",
    499: "dropped",
    500: "inference",
    503: "overloaded",
    504: "dropped",
}
_DURATION = "Seconds from a request's headers to the end of its answer"


class Telemetry:
    """Counts every request, and writes it to the log where one is asked for."""

    def __init__(self, routes: Routes, settings: Settings, metrics: Metrics | None = None) -> None:
        self.metrics = metrics = metrics or Metrics()
        self._log = settings.access_log
        self._requests = {
            (path, status): metrics.counter(
                "untorch_requests_total", "Requests by route and status", route=path, status=str(status)
            )
            for path in [*dict.fromkeys(route.path for route in routes.all), "other"]
            for status in _STATUSES
        }
        self._duration = {
            route.path: metrics.histogram("untorch_request_duration_seconds", _DURATION, DURATIONS, route=route.path)
            for route in routes.all
            if route.working
        }
        self.texts = metrics.counter("untorch_texts_total", "Texts answered")
        self.tokens = metrics.counter("untorch_tokens_total", "Tokens read and written, where they were counted")
        self.logs_lost = metrics.counter("untorch_log_lines_lost_total", "Lines of the access log not written")
        self.queued_texts = metrics.gauge("untorch_queue_texts", "Texts that wait")
        self.queued_tokens = metrics.gauge("untorch_queue_tokens", "Tokens that wait, about")
        self.streams = metrics.gauge("untorch_streams_running", "Texts that language models are writing")
        self._te_metrics()
        self._tracer = _tracer()

    def _te_metrics(self) -> None:
        """The names that dashboards made for Text Embeddings Inference look for."""
        metrics = self.metrics
        one = {
            "count": ("te_request_count", "Requests"),
            "success": ("te_request_success", "Requests answered"),
        }
        self._te = {
            (kind, method): metrics.counter(name, text, method=method)
            for kind, (name, text) in one.items()
            for method in ("single", "batch")
        }
        self._te_failure = {
            name: metrics.counter("te_request_failure", "Requests refused or failed", err=name)
            for name in dict.fromkeys(_FAILURES.values())
        }
        self._te_tasks = {
            path: (
                metrics.counter(f"te_{task}_count", f"Requests to {path}"),
                metrics.counter(f"te_{task}_success", f"Requests to {path} answered"),
                metrics.histogram(f"te_{task}_duration", f"Seconds of a request to {path}", DURATIONS),
            )
            for task, path in (("embed", "/embed"), ("predict", "/predict"), ("rerank", "/rerank"))
        }
        self._te_duration = metrics.histogram("te_request_duration", _DURATION, DURATIONS)
        self._te_queue = metrics.histogram("te_request_queue_duration", "Seconds of waiting for a batch", DURATIONS)
        self._te_inference = metrics.histogram("te_request_inference_duration", "Seconds of the batch", DURATIONS)
        self._te_length = metrics.histogram("te_request_input_length", "Tokens of a request", SIZES)
        self.te_queue_size = metrics.gauge("te_queue_size", "Texts that wait")

    def batched(self, waited: float, ran: float) -> None:
        """Note how long a request waited and how long its batch ran, in seconds."""
        self._te_queue.observe(waited)
        self._te_inference.observe(ran)

    def done(self, request: Request, route: Route | None, status: int, seconds: float) -> None:
        """Count a request that is over."""
        path = route.path if route is not None else "other"
        (self._requests.get((path, status)) or self._requests[path, 500]).add()
        if route is not None and route.working:
            self._worked(request, path, status, seconds)
        if self._log != "off":
            self._write(request, path, status, seconds)

    def _worked(self, request: Request, path: str, status: int, seconds: float) -> None:
        self._duration[path].observe(seconds)
        self._te_duration.observe(seconds)
        method = "single" if request.texts < 2 else "batch"
        self._te["count", method].add()
        task = self._te_tasks.get(path)
        if task is not None:
            task[0].add()
            task[2].observe(seconds)
        if status < 400:
            self._te["success", method].add()
            if task is not None:
                task[1].add()
            self.texts.add(request.texts)
            if request.tokens:
                self.tokens.add(request.tokens)
                self._te_length.observe(request.tokens)
        elif status in _FAILURES:
            self._te_failure[_FAILURES[status]].add()

    def _write(self, request: Request, path: str, status: int, seconds: float) -> None:
        """A line to stderr. One that cannot be written, to a full disk or a closed pipe, is lost and counted."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        facts: dict[str, Any] = {
            "time": f"{now}Z",
            "method": request.method,
            "route": path,
            "model": request.model,
            "status": status,
            "texts": request.texts,
            "tokens": request.tokens,
            "ms": round(1e3 * seconds, 3),
        }
        if (trace := request.headers.get(b"traceparent")) is not None:
            facts["traceparent"] = trace.decode("latin-1")[:128]
        if self._log == "json":
            line = dumps(facts).decode()
        else:
            line = " ".join(
                f"{name}={value!r}" if isinstance(value, str) else f"{name}={value}" for name, value in facts.items()
            )
        if not say(line):
            self.logs_lost.add()

    @contextmanager
    def span(self, request: Request) -> Iterator[Headers]:
        """A span of OpenTelemetry where that is installed; gives the headers that carry the trace on."""
        trace = request.headers.get(b"traceparent")
        if self._tracer is None:
            yield [] if trace is None or len(trace) > 128 else [(b"traceparent", trace)]
            return
        from opentelemetry import propagate
        from opentelemetry import trace as api

        carrier = {} if trace is None else {"traceparent": trace.decode("latin-1")}
        context = propagate.extract(carrier)
        with self._tracer.start_as_current_span(
            f"{request.method} {request.path}", context=context, kind=api.SpanKind.SERVER
        ):
            given: dict[str, str] = {}
            propagate.inject(given)
            yield [(name.encode(), value.encode()) for name, value in given.items()]


def _tracer() -> Any:
    if importlib.util.find_spec("opentelemetry") is None:
        return None
    from opentelemetry import trace

    return trace.get_tracer("untorch")
