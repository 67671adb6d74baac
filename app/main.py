"""The composition root: builds the app and everything it depends on."""

import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from secrets import token_hex
from typing import Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from starlette.types import ASGIApp

from app import __version__
from app.api import openapi, problems, service, v2
from app.api.cors import CrossOrigin
from app.api.guard import guarded
from app.api.headers import WithHeaders
from app.api.layers import FastPath, build_router, endpoints
from app.api.pipeline import Pipeline
from app.api.readiness import Readiness
from app.api.state import LifespanState
from app.codecs import json, safetensors
from app.compute import Engine
from app.compute.device import set_threads, thread_count
from app.layers import LAYERS, LayerSpec
from app.observability.access_log import AccessLog
from app.observability.labels import Labels
from app.observability.logs import request_logger
from app.observability.metrics import Metrics
from app.observability.tracing import UNTRACED, Telemetry
from app.operations import Context
from app.scheduling import INLINE_MS, Admission, Threads, memory_budget
from app.schemas.options import CONVENTIONS
from app.schemas.tensors import DTYPES
from app.settings import Settings, load_settings

logger = logging.getLogger("lamina")

DOCUMENTED = "GET /openapi.json lists the paths and their methods"
UNDOCUMENTED = "GET /v1/layers lists the layers"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def create_app(
    settings: Settings | None = None, layers: Mapping[str, LayerSpec] = LAYERS
) -> ASGIApp:
    """Build the service as an ASGI app, with settings from the environment unless given."""
    settings = _fitted(settings or load_settings())
    engine = Engine(settings.device, settings.limits)
    count = thread_count(settings.threads, settings.workers)
    gpu = engine.device.type != "cpu"
    threads = Threads(set_threads, count, gpu=gpu)
    admission = Admission(
        threads,
        budget_bytes=engine.limits.queue.memory_budget_bytes,
        max_queued=engine.limits.queue.max_queued_requests,
        timeout_s=engine.limits.queue.queue_timeout_ms / 1e3,
        inline_ms=0 if gpu else INLINE_MS,
    )
    readiness = Readiness(lambda: admission.stuck_s)
    metrics = Metrics(lambda: _loads(admission, engine))
    context = Context(engine, layers, problems.refusal)
    pipeline = Pipeline(engine.limits, admission, metrics, readiness)
    known = endpoints(context, pipeline)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[LifespanState]:
        json.warm_up()
        engine.warm_up()
        for executor in (threads.large, threads.small):
            executor.submit(engine.warm_up).result()
        metrics.flush()
        # For responses that the server sends itself.
        cross_origin = whole.headers_for if isinstance(whole, CrossOrigin) else None
        yield LifespanState(readiness=readiness, denied=metrics.denied, cross_origin=cross_origin)
        threads.close()

    # A redirect would echo the Host header of the request.
    app = FastAPI(
        title="Lamina",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=UNTRACED,
        lifespan=lifespan,
    )
    problems.install(app, DOCUMENTED if settings.docs else UNDOCUMENTED)
    app.add_middleware(problems.CatchAll)
    app.add_middleware(WithHeaders)
    app.include_router(build_router(layers, known))
    app.include_router(service.build_router(_info(settings, engine, count), metrics, readiness))
    if settings.docs:
        app.include_router(service.build_docs(lambda: openapi.build_document(app.routes, layers)))
    protocol = v2.build_router(context, pipeline, metrics, readiness)
    fast_path = FastPath(app, known, v2.build_app(protocol))
    labels = Labels([*app.routes, *protocol.routes], layers)
    keys, rate = settings.read_keys(), settings.max_requests_per_minute
    guard = guarded(fast_path, keys, rate, v2.refusal, metrics.denied)
    whole: ASGIApp = problems.CatchAll(guard)
    if settings.cors_origins:
        whole = CrossOrigin(whole, settings.cors_origins, credentials=settings.cors_credentials)
    return _wrapped(whole, settings, labels)


def _fitted(settings: Settings) -> Settings:
    """The settings with a memory budget, by default from the container's memory, and with limits
    lowered to fit it: a client must not be told of a size that can never be served.
    """
    budget = settings.memory_budget_bytes
    if budget is None:
        budget = memory_budget(settings.workers, settings.max_json_body_bytes)
    most = Admission.most_bytes(budget)
    able = {
        "max_json_body_bytes": most // (1 + json.need_bytes(1)),  # /v2 also keeps the text
        "max_binary_body_bytes": most // safetensors.need_bytes(1),
        "max_output_bytes": most,
    }
    given = settings.limits_by_name
    lowered = {name: value for name, value in able.items() if value < given[name]}
    if lowered:
        told = ", ".join(f"{name} from {given[name]} to {lowered[name]}" for name in lowered)
        logger.warning("memory_budget_bytes is %d, which lowers %s", budget, told)
    return settings.model_copy(update={"memory_budget_bytes": budget, **lowered})


def _wrapped(app: ASGIApp, settings: Settings, labels: Labels) -> ASGIApp:
    """Wrap the whole app, error handling included, in request IDs, tracing and the access log."""
    if settings.log_level in ("debug", "info"):
        app = AccessLog(app, labels, request_logger(settings.log_level))
    return CorrelationIdMiddleware(
        Telemetry(app, labels),
        header_name="X-Request-ID",
        update_request_header=False,
        generator=partial(token_hex, 16),
        transformer=None,
        validator=lambda value: _REQUEST_ID.fullmatch(value) is not None,
    )


def _loads(admission: Admission, engine: Engine) -> dict[str, int]:
    """The current values of the gauges."""
    return {
        "in_flight_requests": admission.in_flight,
        "queued_requests": admission.queued,
        "reserved_bytes": admission.reserved_bytes,
        "memory_budget_bytes": engine.limits.queue.memory_budget_bytes,
        "device_memory_bytes": engine.device_memory_bytes,
    }


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
        "limits": settings.limits_by_name,
    }
