"""What `app` leans on in FastAPI and Starlette beyond their documented interfaces.

When this fails after an upgrade, read the named place in the framework again, then in `app`.
"""

import inspect
from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.telemetry import TelemetryConfig
from opentelemetry.sdk.trace import TracerProvider
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from app.observability.tracing import SCOPE_KEY

SIGNATURES = {
    FastAPI.build_middleware_stack: "self",
    CORSMiddleware.is_allowed_origin: "self origin",
    CORSMiddleware.allow_explicit_origin: "headers origin",
    StaticFiles.get_response: "self path scope",
    Route.matches: "self scope",
    iter_route_contexts: "routes",
}


@pytest.mark.parametrize(
    "function", SIGNATURES, ids=lambda function: cast(str, function.__qualname__)
)
def test_signatures(function: Any) -> None:
    assert [*inspect.signature(function).parameters] == SIGNATURES[function].split()


async def nowhere() -> Message:
    raise AssertionError


async def ignore(message: Message) -> None:
    assert message


def http(path: str, method: str = "GET", **others: object) -> Scope:
    return {"type": "http", "path": path, "method": method, "headers": [], **others}


async def answer(_: Request) -> Response:
    return Response()


def test_the_words_of_the_telemetry_settings() -> None:
    assert {"tracing", "metrics", "logs", "operation_spans", "exclude"} <= {
        *TelemetryConfig.__annotations__
    }


@pytest.mark.anyio
async def test_telemetry_wraps_what_the_app_builds_in_place_of_its_middleware() -> None:
    """`Telemetry` asks `enabled`, gives its own app, and finds the request at SCOPE_KEY."""
    found: list[Any] = []

    class Within(FastAPI):
        def build_middleware_stack(self) -> Any:
            async def within(scope: Scope, receive: Receive, send: Send) -> None:
                found.append(scope.get(SCOPE_KEY))  # it is gone once the app is done
                await Response()(scope, receive, send)

            return within

    without: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
    within: TelemetryConfig = {"logs": False, "tracer_provider": TracerProvider()}
    for telemetry, enabled in ((without, False), (within, True)):
        app = Within(openapi_url=None, telemetry=telemetry)
        assert app._native_telemetry.enabled() is enabled
        await app(http("/a"), nowhere, ignore)
    assert found[0] is None
    assert type(found[1]).__name__ == "_RequestTelemetry"
    found[1].route = "/{any}"


def test_routes_of_routers_within_tell_their_paths() -> None:
    """`Labels` reads pattern and template of FastAPI's routes and of Starlette's."""
    router = APIRouter()
    router.add_route("/b/{name}", answer, methods=["POST"])

    @router.get("/c/{name}")
    async def get(name: str) -> str:
        return name

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(router)
    contexts = list(iter_route_contexts([*app.routes, Route("/d/{name}", answer)]))
    assert [context.path_format for context in contexts] == ["/b/{name}", "/c/{name}", "/d/{name}"]
    for context, path in zip(contexts, ("/b/x", "/c/x", "/d/x"), strict=True):
        assert context.path_regex.match(path).groupdict() == {"name": "x"}
    found = {
        path: [route.matches(http(path, method))[0] is Match.FULL for route in app.routes]
        for path, method in (("/b/x", "POST"), ("/c/x", "GET"))
    }
    assert all(map(any, found.values()))


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "status"), [("/a", 405), ("/b", 404)])
async def test_routing_raises_where_an_app_is_in_the_scope(path: str, status: int) -> None:
    router, sent = Router([Route("/a", answer, methods=["GET"])], redirect_slashes=False), []

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(HTTPException) as caught:
        await router(http(path, "POST", app=router), nowhere, send)
    assert caught.value.status_code == status
    await router(http(path, "POST"), nowhere, send)
    assert sent[0]["status"] == status


def test_the_headers_that_cross_origin_middleware_keeps() -> None:
    """`CrossOrigin` adds to the one, and sends the other where the server answers by itself."""
    middleware = CORSMiddleware(answer, ["https://a.example"], expose_headers=["X-A"])  # type: ignore[arg-type]
    assert middleware.simple_headers == {"Access-Control-Expose-Headers": "X-A"}
    assert middleware.preflight_headers["Access-Control-Max-Age"] == "600"
    assert middleware.allow_all_origins is False
    assert middleware.is_allowed_origin("https://a.example")
    headers = MutableHeaders()
    middleware.allow_explicit_origin(headers, "https://a.example")
    assert dict(headers) == {"access-control-allow-origin": "https://a.example", "vary": "Origin"}
