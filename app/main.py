"""The one place where the parts are joined."""

import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from secrets import token_hex
from typing import Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app import __version__
from app.api import openapi, problems, service, v2
from app.api.guard import guarded
from app.api.headers import NOSNIFF, WithHeaders
from app.api.layers import Compute, Front, LayerService, build_router
from app.api.metrics import Metrics
from app.compute import Engine
from app.compute.device import set_threads, thread_count
from app.layers import LAYERS, LayerSpec
from app.scheduling import INLINE_MS, Threads
from app.schemas.options import CONVENTIONS
from app.schemas.tensors import DTYPES
from app.settings import Settings, load_settings

BINARY_HEADER = "Inference-Header-Content-Length"
REQUEST_HEADERS = (
    "Content-Type",
    "Authorization",
    "X-Request-ID",
    "X-Request-Timeout-Ms",
    BINARY_HEADER,
)
RESPONSE_HEADERS = ("X-Request-ID", "Retry-After", "Server-Timing", BINARY_HEADER)
PREFLIGHT_AGE_S = 600
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def create_app(
    settings: Settings | None = None, layers: Mapping[str, LayerSpec] = LAYERS
) -> ASGIApp:
    """The service as an ASGI app; settings come from the environment unless they are given."""
    settings = settings or load_settings()
    engine = Engine(settings.device, settings.limits)
    count = thread_count(settings.threads, settings.workers)
    set_threads(1)  # the event loop's: it computes only what is too small to share
    inline_ms = INLINE_MS if engine.device.type == "cpu" else 0
    threads = Threads(partial(set_threads, count), inline_ms)
    services = {name: LayerService(spec, engine, threads) for name, spec in layers.items()}
    metrics = Metrics()
    computes = {name: Compute(service, metrics) for name, service in services.items()}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.warm_up()
        await threads.compute(math.inf, engine.warm_up)
        yield
        threads.close()

    # A redirect would name the host that the request names.
    app = FastAPI(
        title="Lamina",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    problems.install(app)
    app.add_middleware(problems.CatchAll)
    app.add_middleware(WithHeaders)
    app.include_router(build_router(layers, engine, computes))
    app.include_router(service.build_router(_info(settings, engine, count), metrics))
    if settings.docs:
        app.include_router(service.build_docs(lambda: openapi.build_document(layers)))
    front = Front(app, computes, v2.build_app(services, metrics))
    keys, rate = settings.read_keys(), settings.max_requests_per_minute
    return _wrapped(problems.CatchAll(guarded(front, keys, rate, v2.refusal)), settings)


def _wrapped(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Request ids and cross-origin headers around everything, errors included."""
    wrapped: ASGIApp = CorrelationIdMiddleware(
        app,
        header_name="X-Request-ID",
        update_request_header=False,
        generator=partial(token_hex, 16),
        transformer=None,
        validator=lambda value: _REQUEST_ID.fullmatch(value) is not None,
    )
    if settings.cors_origins:
        cors = CORSMiddleware(
            wrapped,
            allow_origins=settings.cors_origins,
            allow_credentials=settings.cors_credentials,
            allow_methods=["GET", "POST"],
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            max_age=PREFLIGHT_AGE_S,
        )
        cors.preflight_headers.update(NOSNIFF)
        wrapped = cors
    return wrapped


def _info(settings: Settings, engine: Engine, threads: int) -> dict[str, Any]:
    return {
        "name": "lamina",
        "version": __version__,
        "torch": version("torch"),
        "device": {"type": engine.device.type, "name": engine.device_name},
        "workers": settings.workers,
        "threads": threads,
        "conventions": CONVENTIONS,
        "dtypes": tuple(DTYPES),
        "limits": settings.limits,
    }
