"""Routes about the service itself: health, information, the interactive reference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import FileResponse

from app.api.headers import page_headers
from app.api.health import Readiness
from app.api.metrics import Metrics

STATIC = Path(__file__).parent / "static"
JSON = "application/json"
DOCS_PAGE = page_headers(
    "default-src 'self'", "img-src 'self' data:", "style-src 'self' 'unsafe-inline'"
)


def build_router(info: dict[str, Any], metrics: Metrics, readiness: Readiness) -> APIRouter:
    """Health, metrics and information; `info` is what `/v1/info` answers."""
    router = APIRouter()

    @router.get("/livez", name="livez")
    async def livez() -> Response:
        return Response(b'{"status":"alive"}', media_type=JSON)

    @router.get("/readyz", name="readyz")
    async def readyz() -> Response:
        if obstacle := readiness.obstacle():
            raise obstacle
        return Response(b'{"status":"ready"}', media_type=JSON)

    @router.get("/metrics", name="metrics")
    async def get_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/info", name="info")
    async def get_info() -> Response:
        return Response(json.dumps(info), media_type=JSON)

    return router


def build_docs(document: Callable[[], dict[str, Any]]) -> APIRouter:
    """The interactive reference, from this process's own files."""
    router = APIRouter(include_in_schema=False)
    text = json.dumps(document()).encode()

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return Response(text, media_type=JSON)

    @router.get("/docs")
    async def docs() -> Response:
        return FileResponse(STATIC / "docs.html", headers=DOCS_PAGE)

    router.mount("/docs/assets", StaticFiles(directory=STATIC))
    return router
