"""The endpoints, as an ASGI app with errors in the protocol's own format."""

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api.headers import NO_STORE, NOSNIFF
from app.api.layers import Endpoint
from app.api.pipeline import Pipeline
from app.api.problems import STATUS, CatchAll, headers_of_error, problem, short
from app.api.readiness import Readiness
from app.api.v2._face import OpenInference
from app.api.v2._mapping import inputs_card, outputs_card
from app.api.v2._statistics import model_stats
from app.codecs import JSON
from app.errors import LaminaError, UnknownLayer, UnknownPath
from app.layers import LayerSpec
from app.observability.metrics import Metrics
from app.operations import COMPUTE, Context, nearest

PLATFORM = "pytorch_eager"
VERSION = "1"
EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration")
ROUTING = {404: "unknown path", 405: "method not allowed"}


def build_router(
    context: Context, pipeline: Pipeline, metrics: Metrics, readiness: Readiness
) -> Router:
    """Routes under `/v2`: health, and each model's metadata, config, statistics and inference."""
    return _Routes(context, pipeline, metrics, readiness).router


def _endpoint(spec: LayerSpec, context: Context, pipeline: Pipeline) -> Endpoint:
    """The inference endpoint of one model: the compute operation, in this protocol."""
    reader = COMPUTE.reader(context, spec)
    face = OpenInference(spec, reader, context.engine.limits)
    return Endpoint(spec.name, pipeline, reader, face)


def build_app(router: Router) -> ASGIApp:
    """Wrap the router to report errors in the protocol's format."""
    return CatchAll(_WithDomainErrors(router), _error)


def refusal(path: str, error: LaminaError) -> Response:
    """The response to an error before routing, in the format of the path's protocol."""
    return _error(error) if path == "/v2" or path.startswith("/v2/") else problem(error)


def _error(error: LaminaError) -> Response:
    """An error in the protocol's format: a single string, which its clients display."""
    response = _json({"error": short(error.detail)}, STATUS[type(error)])
    response.headers.update(headers_of_error(error))
    return response


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, NOSNIFF, JSON)


class _Routes:
    def __init__(
        self, context: Context, pipeline: Pipeline, metrics: Metrics, readiness: Readiness
    ) -> None:
        self._layers = context.layers
        self._endpoints = {
            name: _endpoint(spec, context, pipeline) for name, spec in context.layers.items()
        }
        self._metrics = metrics
        self._readiness = readiness
        routes = [
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/", self.server, methods=["GET"]),
            Route("/v2/health/{state:str}", self.health, methods=["GET"]),
            Route("/v2/models/stats", self.all_statistics, methods=["GET"]),
        ]
        for path, endpoint, method in (
            ("", self.metadata, "GET"),
            ("/ready", self.ready, "GET"),
            ("/config", self.config, "GET"),
            ("/stats", self.statistics, "GET"),
            ("/infer", self.infer, "POST"),
        ):
            for version in ("", "/versions/{version}"):
                route = f"/v2/models/{{model}}{version}{path}"
                routes.append(Route(route, endpoint, methods=[method]))
        self.router = Router(routes, redirect_slashes=False)

    async def server(self, _: Request) -> Response:
        return _json({"name": "lamina", "version": __version__, "extensions": EXTENSIONS})

    async def health(self, request: Request) -> Response:
        state = request.path_params["state"]
        if state not in ("live", "ready"):
            raise UnknownPath("expected /v2/health/live or /v2/health/ready")
        if state == "ready":
            self._check_ready()
        return _json({state: True})

    def _check_ready(self) -> None:
        if obstacle := self._readiness.obstacle():
            raise obstacle

    async def ready(self, request: Request) -> Response:
        self._check_ready()
        return _json({"name": self._model(request).name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        spec = self._model(request)
        card = {"name": spec.name, "versions": [VERSION], "platform": PLATFORM}
        return _json(card | {"inputs": inputs_card(spec), "outputs": outputs_card(spec)})

    async def config(self, request: Request) -> Response:
        spec = self._model(request)
        card: dict[str, Any] = {"name": spec.name, "platform": PLATFORM, "max_batch_size": 0}
        for key, ports in (("input", inputs_card(spec)), ("output", outputs_card(spec))):
            card[key] = [
                {"name": p["name"], "data_type": f"TYPE_{p['datatype']}", "dims": p["shape"]}
                for p in ports
            ]
        return _json(card)

    async def statistics(self, request: Request) -> Response:
        name = self._model(request).name
        return _json(model_stats(self._metrics, [name]))

    async def all_statistics(self, _: Request) -> Response:
        return _json(model_stats(self._metrics, self._layers))

    async def infer(self, request: Request) -> ASGIApp:
        return self._endpoints[self._model(request).name]

    def _model(self, request: Request) -> LayerSpec:
        name = request.path_params["model"]
        if name not in self._layers:
            raise UnknownLayer(f"no model has that name; {nearest(name, self._layers)}")
        if request.path_params.get("version", VERSION) != VERSION:
            raise UnknownLayer(f"{name}: the only version is {VERSION}")
        return self._layers[name]


class _WithDomainErrors:
    """Reports routing errors in the protocol's format."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette raises routing errors only if the scope has an app; else it sends plain text.
        try:
            await self._app({**scope, "app": self}, receive, send)
        except HTTPException as error:
            response = _json({"error": ROUTING[error.status_code]}, error.status_code)
            response.headers.update({**NO_STORE, **(error.headers or {})})
            await response(scope, receive, send)
