"""The endpoints, as an ASGI app with errors of the protocol's own form."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api.bodies import Headers, headers_of
from app.api.headers import NO_STORE, NOSNIFF
from app.api.layers import LayerService, answer
from app.api.problems import (
    STATUS,
    CatchAll,
    headers_of_error,
    nearest,
    problem,
    short,
)
from app.api.readiness import Readiness
from app.api.v2._mapping import check_outputs, fields_of, inputs_card, outputs_card, outputs_of
from app.api.v2._statistics import ENCODING, model_stats
from app.codecs import JSON, json
from app.codecs.inflate import WINDOW_BITS, inflate
from app.codecs.open_inference import Inference, decode, encode
from app.errors import (
    BodyTooLarge,
    LaminaError,
    MalformedBody,
    UnknownLayer,
    UnknownPath,
    UnsupportedMedia,
)
from app.observability.metrics import Metrics, PhaseTimings
from app.scheduling import Claim

PLATFORM = "pytorch_eager"
VERSION = "1"
EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration")
HEADER_LENGTH = b"inference-header-content-length"
INLINE_BYTES = 32 * 1024
"""Requests up to this size are read on the event loop, well below a millisecond."""


def build_router(
    services: Mapping[str, LayerService], metrics: Metrics, readiness: Readiness
) -> Router:
    """`/v2`: health, metadata, configuration, statistics and inference of every layer."""
    return _Routes(services, metrics, readiness).router


def build_app(router: Router) -> ASGIApp:
    """The router with the protocol's errors."""
    return CatchAll(_WithDomainErrors(router), _error)


def refusal(path: str, error: LaminaError) -> Response:
    """The answer to an error before any route is found, in the form of the path's protocol."""
    return _error(error) if path == "/v2" or path.startswith("/v2/") else problem(error)


def _error(error: LaminaError) -> Response:
    """The protocol's form: one string, which its clients print."""
    response = _json({"error": short(error.detail)}, STATUS[type(error)])
    response.headers.update(headers_of_error(error))
    return response


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, NOSNIFF, JSON)


class _Routes:
    def __init__(
        self, services: Mapping[str, LayerService], metrics: Metrics, readiness: Readiness
    ) -> None:
        self._services = services
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
        return _json({"name": self._model(request).spec.name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        spec = self._model(request).spec
        card = {"name": spec.name, "versions": [VERSION], "platform": PLATFORM}
        return _json(card | {"inputs": inputs_card(spec), "outputs": outputs_card(spec)})

    async def config(self, request: Request) -> Response:
        spec = self._model(request).spec
        card: dict[str, Any] = {"name": spec.name, "platform": PLATFORM, "max_batch_size": 0}
        for key, ports in (("input", inputs_card(spec)), ("output", outputs_card(spec))):
            card[key] = [
                {"name": p["name"], "data_type": f"TYPE_{p['datatype']}", "dims": p["shape"]}
                for p in ports
            ]
        return _json(card)

    async def statistics(self, request: Request) -> Response:
        name = self._model(request).spec.name
        return _json(model_stats(self._metrics, [name]))

    async def all_statistics(self, _: Request) -> Response:
        return _json(model_stats(self._metrics, self._services))

    async def infer(self, request: Request) -> ASGIApp:
        return _Inference(self._model(request))

    def _model(self, request: Request) -> LayerService:
        name = request.path_params["model"]
        if name not in self._services:
            raise UnknownLayer(f"there is no model of that name; {nearest(name, self._services)}")
        if request.path_params.get("version", VERSION) != VERSION:
            raise UnknownLayer(f"{name} has the version {VERSION} alone")
        return self._services[name]


class _Inference:
    """An ASGI app that answers one model's inference requests."""

    def __init__(self, service: LayerService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        work = partial(self._answer, headers=headers, receive=receive, send=send)
        await self._service.serve(scope, headers, ENCODING, work)

    async def _answer(
        self, claim: Claim, headers: Headers, receive: Receive, send: Send
    ) -> PhaseTimings:
        """Read, plan, compute, print."""
        service = self._service
        _check_encoding(headers)
        most_bytes = service.limits["max_binary_body_bytes"]
        need_bytes = partial(self._need_bytes, headers)
        body = await service.body(claim, headers, receive, most_bytes, need_bytes)
        claim.lap_ms()  # nobody works while the body comes in
        # A small compressed body may hold a large one.
        small = len(body) <= INLINE_BYTES and b"content-encoding" not in headers
        inference = await claim.run_codec(small, partial(self._decoded, body, headers))
        fields = fields_of(service.spec, service.tensors, inference, service.limits["max_replicas"])
        call, plan = service.planned(fields)
        check_outputs(service.spec, plan, call.dtype, inference)
        decode_ms = claim.lap_ms()
        printed = plan.answer_numbers if inference.wants_text else 0
        text_bytes = json.answer_bytes(printed, call.dtype)
        result = await service.run(claim, call, plan, text_bytes)
        compute_ms = claim.lap_ms()
        outputs = outputs_of(result, inference)
        small = sum(payload.data.nbytes for payload in outputs.values()) <= INLINE_BYTES
        pieces, length = await claim.run_codec(
            small, partial(encode, service.spec.name, inference, outputs)
        )
        encode_ms = claim.lap_ms()
        claim.end_turn()
        spent = PhaseTimings(claim.queue_ms, decode_ms, compute_ms, encode_ms)
        media = JSON if length is None else "application/octet-stream"
        extra = () if length is None else ((HEADER_LENGTH, b"%d" % length),)
        await answer(send, pieces, (b"content-type", media.encode()), spent.header(), *extra)
        return spent

    def _need_bytes(self, headers: Headers, body_bytes: int) -> int:
        """Memory that reading a body takes: its JSON, which may stand before bytes, takes more."""
        limits = self._service.limits
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            body_bytes += limits["max_binary_body_bytes"]
        length = _header_length(headers)
        text_bytes = min(
            body_bytes if length is None else length, body_bytes, limits["max_json_body_bytes"]
        )
        return body_bytes + json.need_bytes(text_bytes)

    def _decoded(self, body: bytes | bytearray, headers: Headers) -> Inference:
        limits = self._service.limits
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding in WINDOW_BITS:
            body = inflate(body, encoding, limits["max_binary_body_bytes"])
        length = _header_length(headers)
        text = len(body) if length is None else length
        if text > limits["max_json_body_bytes"]:
            most = limits["max_json_body_bytes"]
            raise BodyTooLarge(f"expected at most {most} bytes of JSON; got {text}")
        many = len(self._service.tensors) + 2 * limits["max_replicas"] + 1
        return decode(body, length, max_rank=limits["max_rank"], max_tensors=many)


def _check_encoding(headers: Headers) -> None:
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if encoding != b"identity" and encoding not in WINDOW_BITS:
        raise UnsupportedMedia("expected Content-Encoding gzip, deflate or none")


def _header_length(headers: Headers) -> int | None:
    text = headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise MalformedBody("Inference-Header-Content-Length: expected a number of bytes")
    return int(text)


class _WithDomainErrors:
    """Routing's errors as ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Routes answer with exceptions where an app is known in the scope, else with plain text.
        try:
            await self._app({**scope, "app": self}, receive, send)
        except HTTPException as error:
            response = _json({"error": "GET /v2 names what is served"}, error.status_code)
            response.headers.update({**NO_STORE, **(error.headers or {})})
            await response(scope, receive, send)
