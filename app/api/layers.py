"""The routes of `/v1`: the catalog, and the operations of each layer and of the service."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.accept import accepted
from app.api.bodies import headers_of
from app.api.openapi import described_get, described_posts
from app.api.paths import path_of
from app.api.pipeline import Face, Pipeline
from app.api.rest import Rest
from app.codecs import JSON
from app.errors import UnknownLayer, UnknownPath
from app.layers import LayerSpec
from app.operations import (
    LAYER_OPERATIONS,
    SERVICE_OPERATIONS,
    Context,
    Operation,
    Reader,
    nearest,
)


def card(spec: LayerSpec) -> dict[str, Any]:
    """A layer's entry in the catalog."""
    return {
        "name": spec.name,
        "family": spec.family,
        "summary": spec.summary,
        **{
            side: [
                {
                    "name": port.name,
                    "axes": port.axes,
                    "ranks": port.ranks,
                    "required": port.required,
                }
                for port in ports
            ]
            for side, ports in (("inputs", spec.inputs), ("outputs", spec.outputs))
        },
        "parameters": spec.options.model_json_schema(),
        "example": dict(spec.example),
    }


class Endpoint:
    """An ASGI app that serves one operation."""

    def __init__(self, name: str, pipeline: Pipeline, reader: Reader, face: Face) -> None:
        self.name = name
        self._pipeline = pipeline
        self._reader = reader
        self._face = face

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._pipeline.serve(self.name, self._reader, self._face, scope, receive, send)


def endpoints(context: Context, pipeline: Pipeline) -> Mapping[str, Endpoint]:
    """Endpoints by path: every operation of every layer, and of the service."""
    readers: list[tuple[Operation, str, Reader]] = [
        (operation, name, operation.reader(context, spec))
        for operation in LAYER_OPERATIONS
        for name, spec in context.layers.items()
    ]
    readers += [(operation, "", operation.reader(context)) for operation in SERVICE_OPERATIONS]
    found = {}
    for operation, layer, reader in readers:
        path = path_of(operation, layer)
        name = path.removeprefix("/v1/").removeprefix("layers/")
        face = Rest(operation, reader, context.engine.limits)
        found[path] = Endpoint(name, pipeline, reader, face)
    return found


class _Through(Response):
    """A response produced by an ASGI app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def build_router(layers: Mapping[str, LayerSpec], known: Mapping[str, Endpoint]) -> APIRouter:
    """Create the routes of the catalog and of all operations."""
    router = APIRouter()
    cards = {name: card(spec) for name, spec in layers.items()}
    catalogue = json.dumps({"layers": list(cards.values())}).encode()

    def named(request: Request) -> str:
        layer: str = request.path_params["layer"]
        if layer not in layers:
            raise UnknownLayer(f"no layer has that name; {nearest(layer, layers)}")
        return layer

    async def list_layers(request: Request) -> Response:
        accepted(headers_of(request.scope), (JSON,))
        return Response(catalogue, media_type=JSON)

    async def get_layer(request: Request) -> Response:
        name = named(request)
        accepted(headers_of(request.scope), (JSON,))
        return Response(json.dumps(cards[name]), media_type=JSON)

    async def operation(request: Request) -> Response:
        return _Through(known[request.scope["path"]])

    async def unknown(request: Request) -> Response:
        raise UnknownPath(f"{named(request)} has no operation of that name")

    router.add_api_route("/v1/layers", list_layers, **described_get("/v1/layers"))
    one = "/v1/layers/{layer}"
    router.add_api_route(one, get_layer, **described_get(one, layers))
    for path, description in described_posts(layers):
        router.add_api_route(path, operation, methods=["POST"], **description)
    for path in dict.fromkeys(path_of(one, "{layer}") for one in LAYER_OPERATIONS):
        router.add_api_route(path, unknown, methods=["POST"], include_in_schema=False)
    return router


class FastPath:
    """Dispatches directly to the endpoints in `known`, bypassing the middleware and routing of
    `app`, which take as long as a small layer, and to `v2`, which has its own error format.
    Everything else goes to `app`.
    """

    def __init__(self, app: ASGIApp, known: Mapping[str, ASGIApp], v2: ASGIApp) -> None:
        self._app = app
        self._v2 = v2
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            endpoint = self._known.get(path)
            if endpoint is not None and scope["method"] == "POST":
                return await endpoint(scope, receive, send)
            if path == "/v2" or path.startswith("/v2/"):
                return await self._v2(scope, receive, send)
        return await self._app(scope, receive, send)
