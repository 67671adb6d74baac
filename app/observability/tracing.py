"""OpenTelemetry spans and metrics: FastAPI's own, for every path of the service.

Without a tracer or meter provider, the overhead is about a microsecond per request.
"""

import time
from functools import cached_property
from typing import Any

from asgi_correlation_id import correlation_id
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.observability.labels import PROBES, UNMATCHED, Labels, method, phases

SCOPE_KEY = "fastapi.telemetry"
"""The scope key under which FastAPI stores the state of a traced request."""
ORDER = ("decode_ms", "queue_ms", "compute_ms", "encode_ms")
"""The phases in the order they run, except that waits for memory come first."""

UNTRACED: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""For the inner app, which would otherwise trace requests that FastAPI routes twice."""


class Telemetry(FastAPI):
    """FastAPI's telemetry for an app that FastAPI does not route, with the route, the layer and a
    span per phase. Exception messages and validation errors are not recorded.
    """

    def __init__(self, app: ASGIApp, labels: Labels) -> None:
        super().__init__(
            openapi_url=None,
            telemetry={
                "logs": False,
                "operation_spans": False,
                "exclude": lambda scope: scope["path"] in PROBES,
            },
        )
        self._traced = app
        self._labels = labels
        self._tracer = trace.get_tracer("lamina", __version__)

    @cached_property
    def _configured(self) -> bool:
        """Whether a provider is configured; checked only on the first request: it takes 5 us."""
        return self._native_telemetry.enabled()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._configured:
            await self._traced(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """Use the wrapped app in place of FastAPI's middleware and routes."""
        return self._labelled

    async def _labelled(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: Any = scope.get(SCOPE_KEY)
        if request is None:
            await self._traced(scope, receive, send)
            return
        span = trace.get_current_span()
        route, layer = self._labels.find(scope["path"])
        if route != UNMATCHED:
            request.route = route
            span.set_attribute("http.route", route)
            span.update_name(f"{method(scope['method'])} {route}")
        if layer:
            span.set_attribute("lamina.layer", layer)
        span.set_attribute("lamina.request_id", correlation_id.get() or "-")

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._draw(message)
            await send(message)

        await self._traced(scope, receive, watch)

    def _draw(self, message: Message) -> None:
        """Create a span for each phase, timed backward from the start of the response."""
        timing = dict(message.get("headers", ())).get(b"server-timing", b"")
        spent = phases(timing)
        begun = time.time_ns() - int(sum(spent.values()) * 1e6)
        for phase in filter(spent.__contains__, ORDER):
            span = self._tracer.start_span(phase.removesuffix("_ms"), start_time=begun)
            begun += int(spent[phase] * 1e6)
            span.end(begun)
