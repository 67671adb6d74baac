"""Spans and metrics for OpenTelemetry: FastAPI's own, around all that is served.

Without a provider of tracers or meters this costs a microsecond.
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
"""Where FastAPI keeps what it knows of a request that it traces."""
ORDER = ("decode_ms", "queue_ms", "compute_ms", "encode_ms")
"""The phases as they follow one another, but for waits for memory, which come first."""

UNTRACED: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""For the app within, which would trace what FastAPI routes a second time."""


class Telemetry(FastAPI):
    """FastAPI's telemetry for an app whose requests FastAPI does not route; it adds the route, the
    layer, and a span a phase. Exception messages and validation errors are not recorded.
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
        """Whether there is a provider; asked once, at the first request, since it takes 5 us."""
        return self._native_telemetry.enabled()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._configured:
            await self._traced(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """In place of FastAPI's middleware and routes: the app."""
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
        """A span for each phase, counted back from the answer's start."""
        timing = dict(message.get("headers", ())).get(b"server-timing", b"")
        spent = phases(timing)
        begun = time.time_ns() - int(sum(spent.values()) * 1e6)
        for phase in filter(spent.__contains__, ORDER):
            span = self._tracer.start_span(phase.removesuffix("_ms"), start_time=begun)
            begun += int(spent[phase] * 1e6)
            span.end(begun)
