"""Routes for the service itself: health, metrics, information, interactive API docs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from app.api.accept import accepted
from app.api.bodies import headers_of
from app.api.headers import page_headers
from app.api.openapi import described_get
from app.api.readiness import Readiness
from app.observability.metrics import Metrics

STATIC = Path(__file__).parent / "static"
JSON = "application/json"
DOCS_PAGE = page_headers(
    "default-src 'self'", "img-src 'self' data:", "style-src 'self' 'unsafe-inline'"
)


class _Assets(StaticFiles):
    """Static files without range requests: Starlette rejects an invalid `Range` in plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in scope["headers"] if header[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Accept-Ranges"] = "none"
        return response


def build_router(info: dict[str, Any], metrics: Metrics, readiness: Readiness) -> APIRouter:
    """Routes for health, metrics and information; `info` is the response of `/v1/info`."""
    router = APIRouter()

    @router.get("/livez", name="livez", **described_get("/livez"))
    async def livez() -> Response:
        return Response(b'{"status":"alive"}', media_type=JSON)

    @router.get("/readyz", name="readyz", **described_get("/readyz"))
    async def readyz() -> Response:
        if obstacle := readiness.obstacle():
            raise obstacle
        return Response(b'{"status":"ready"}', media_type=JSON)

    @router.get("/metrics", name="metrics", include_in_schema=False)
    async def get_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/info", name="info", **described_get("/v1/info"))
    async def get_info(request: Request) -> Response:
        accepted(headers_of(request.scope), (JSON,))
        return Response(json.dumps(info), media_type=JSON)

    return router


def build_docs(document: Callable[[], dict[str, Any]]) -> APIRouter:
    """Routes for the interactive API docs, served from local files."""
    router = APIRouter(include_in_schema=False)
    text = json.dumps(document()).encode()
    page = (STATIC / "docs.html").read_bytes()

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return Response(text, media_type=JSON)

    @router.get("/docs")
    async def docs() -> Response:
        return Response(page, headers=DOCS_PAGE, media_type="text/html; charset=utf-8")

    router.mount("/docs/assets", _Assets(directory=STATIC))
    return router
