"""The layers' routes: catalogue, compute and shape, one operation a layer."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.api.accept import accepted
from app.api.bodies import (
    LIMITS,
    Headers,
    body_length,
    deadline_s,
    headers_of,
    media_type,
    read_body,
)
from app.api.headers import NO_STORE
from app.api.readiness import Readiness
from app.codecs import CODECS, JSON, SAFETENSORS
from app.compute import Engine
from app.errors import LaminaError, UnknownLayer
from app.layers import LayerSpec, Plan, compute_model, shape_model, tensor_fields
from app.observability.metrics import Metrics, PhaseTimings
from app.scheduling import Admission, Claim, Deadline, clock

Header = tuple[bytes, bytes]
ENCODINGS = {JSON.encode(): "json", SAFETENSORS.encode(): "safetensors"}
SHAPE_BODY_BYTES = 64 * 1024
"""Most that a request without data may have; it is read on the event loop, with no turn."""
PIECE_BYTES = 1 << 20
"""Most that the transport holds of an answer whose memory has been given back."""
COMPUTE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


def card(spec: LayerSpec) -> dict[str, Any]:
    """What the catalogue says of a layer."""
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


class LayerService:
    """Plans and runs the requests of one layer, whatever protocol they came in."""

    def __init__(
        self,
        spec: LayerSpec,
        engine: Engine,
        admission: Admission,
        metrics: Metrics,
        readiness: Readiness,
    ) -> None:
        self.spec = spec
        self.tensors = tensor_fields(spec)
        self.limits = engine.limits
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._readiness = readiness
        self._model = compute_model(spec)

    async def serve(
        self,
        scope: Scope,
        headers: Headers,
        encoding: str,
        work: Callable[[Claim], Awaitable[PhaseTimings]],
    ) -> None:
        """Give a request that has come its claim, and note how it ended.

        Raises:
            LaminaError: whatever `work` raises.

        """
        begun, layer = clock(), self.spec.name
        try:
            claim = self._claim(scope, headers)
            self._metrics.begun()
            try:
                spent = await work(claim)
            finally:
                claim.close()
        except problems.LEFT:
            self._metrics.shed("client-left")
            raise
        except Exception as error:
            status = problems.status_of(error)
            self._metrics.refused(layer, encoding, status, (clock() - begun) * 1e3)
            if isinstance(error, LaminaError) and status >= 503:
                self._metrics.shed(error.code)
            self._readiness.note(error)
            raise
        self._metrics.answered(layer, encoding, spent)

    def _claim(self, scope: Scope, headers: Headers) -> Claim:
        until_s = deadline_s(scope, headers, self.limits["request_timeout_ms"])
        return self._admission.claim(Deadline(until_s))

    async def body(
        self,
        claim: Claim,
        headers: Headers,
        receive: Receive,
        most_bytes: int,
        need_bytes: Callable[[int], int],
    ) -> bytes | bytearray:
        """The body, in memory that was free, and room to read it.

        Raises:
            RequestError: it is too long, has no length, or does not come.
            Overloaded, DeadlineExceeded, Abandoned: not now.

        """
        length = body_length(headers, most_bytes)
        if length is not None:
            claim.check_body(need_bytes(length))

        async def make_room(come: int) -> int:
            if length is None:
                return self._grown(claim, come, most_bytes, need_bytes)
            await claim.take_body(length, need_bytes(length))
            return length

        idle_ms, until_s = self.limits["body_idle_timeout_ms"], claim.deadline.until_s
        body = await read_body(receive, length or most_bytes, idle_ms, until_s, make_room)
        claim.deadline.watch(receive)
        await claim.take_reading(len(body), need_bytes(len(body)))
        return body

    def _grown(
        self, claim: Claim, come: int, most_bytes: int, need_bytes: Callable[[int], int]
    ) -> int:
        """Room for a body of unknown length: twice what came, where that is not for others."""
        room = min(2 * come, most_bytes)
        if not self._admission.same_lane(need_bytes(come), need_bytes(room)):
            room = come
        claim.grow_body(room, need_bytes(room))
        return room

    def planned(self, fields: Mapping[str, object]) -> tuple[Any, Plan]:
        """The validated request, and its plan.

        Raises:
            InvalidRequest: fields that are wrong, or over a limit.

        """
        call: Any = validated(self._model, fields)
        return call, self._engine.plan(self.spec, call)

    async def run(self, claim: Claim, call: Any, plan: Plan, answer_bytes: int) -> dict[str, Any]:
        """The answer's fields, once there is room for them and for `answer_bytes` to send.

        Raises:
            Overloaded, DeadlineExceeded, Abandoned: not now.

        """
        await claim.take_result(plan.estimated_bytes + answer_bytes)
        run = partial(self._engine.run, self.spec, call, plan)
        return await claim.compute(plan.estimated_ms, run)


class Compute:
    """An ASGI app that answers the compute requests of one layer."""

    def __init__(self, service: LayerService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        encoding = ENCODINGS.get(headers.get(b"content-type", b""), "other")
        work = partial(self._answer, headers=headers, receive=receive, send=send)
        await self._service.serve(scope, headers, encoding, work)

    async def _answer(
        self, claim: Claim, headers: Headers, receive: Receive, send: Send
    ) -> PhaseTimings:
        """Read, plan, compute, print."""
        service = self._service
        reader, answer_type = CODECS[(sent := media_type(headers))], accepted(headers)
        most_bytes = service.limits[LIMITS[sent]]
        body = await service.body(claim, headers, receive, most_bytes, reader.need_bytes)
        claim.lap_ms()  # nobody works while the body comes in
        read = partial(
            reader.decode,
            body,
            service.tensors,
            max_rank=service.limits["max_rank"],
            max_list=service.limits["max_replicas"],
        )
        fields = await claim.run_codec(len(body) <= reader.INLINE_BYTES, read)
        call, plan = service.planned(fields)
        decode_ms = claim.lap_ms()
        writer = CODECS[answer_type]
        text_bytes = writer.answer_bytes(plan.answer_numbers, call.dtype)
        result = await service.run(claim, call, plan, text_bytes)
        compute_ms = claim.lap_ms()
        pieces: Sequence[bytes | memoryview] = await claim.run_codec(
            plan.answer_numbers <= writer.INLINE_NUMBERS and not call.explain,
            partial(writer.encode, result, encoding=call.encoding),
        )
        encode_ms = claim.lap_ms()
        claim.end_turn()
        spent = PhaseTimings(claim.queue_ms, decode_ms, compute_ms, encode_ms)
        await answer(send, pieces, (b"content-type", answer_type.encode()), spent.header())
        return spent


async def answer(send: Send, pieces: Sequence[bytes | memoryview], *headers: Header) -> None:
    """Send what starlette's Response would, without the time it takes to build one."""
    start = (*COMPUTE_HEADERS, (b"content-length", b"%d" % sum(map(len, pieces))), *headers)
    await send({"type": "http.response.start", "status": 200, "headers": start})
    *others, last = _cut(pieces)
    for piece in others:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": last})


def _cut(pieces: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces of bounded size; with the last handed over, most others are sent."""
    for piece in pieces:
        whole = memoryview(piece)
        for begin in range(0, len(whole) - PIECE_BYTES, PIECE_BYTES):
            yield whole[begin : begin + PIECE_BYTES]
        if len(whole) > PIECE_BYTES:
            # A copy: a view would keep all of the piece until it is sent.
            rest = len(whole) % PIECE_BYTES or PIECE_BYTES
            yield bytes(whole[-rest:])
        else:
            yield piece


def build_router(
    layers: Mapping[str, LayerSpec], engine: Engine, computes: Mapping[str, Compute]
) -> APIRouter:
    """Routes for every layer of the list; `openapi.py` describes them."""
    router = APIRouter()
    cards = {name: card(spec) for name, spec in layers.items()}
    catalogue = json.dumps({"layers": list(cards.values())}).encode()

    def known(layer: str) -> LayerSpec:
        if layer not in layers:
            near = problems.nearest(layer, layers)
            raise UnknownLayer(f"there is no layer of that name; {near}")
        return layers[layer]

    @router.get("/v1/layers", name="list_layers")
    async def list_layers(request: Request) -> Response:
        accepted(headers_of(request.scope), (JSON,))
        return Response(catalogue, media_type=JSON)

    @router.get("/v1/layers/{layer}", name="get_layer")
    async def get_layer(request: Request, layer: str) -> Response:
        name = known(layer).name
        accepted(headers_of(request.scope), (JSON,))
        return Response(json.dumps(cards[name]), media_type=JSON)

    # Starlette's routes: bodies are read here, so FastAPI's parameters would only cost time.
    async def compute(request: Request) -> Any:
        return computes[known(request.path_params["layer"]).name]

    async def shape(request: Request) -> Response:
        """The output shape; its counts may exceed 64 bits, which only `json` prints."""
        spec = known(request.path_params["layer"])
        limits, headers = engine.limits, headers_of(request.scope)
        media_type(headers, (JSON,))
        accepted(headers, (JSON,))
        most_bytes = min(SHAPE_BODY_BYTES, limits[LIMITS[JSON]])
        body_length(headers, most_bytes)
        until_s = deadline_s(request.scope, headers, limits["request_timeout_ms"])
        idle_ms = limits["body_idle_timeout_ms"]
        body = await read_body(request.receive, most_bytes, idle_ms, until_s)
        Deadline(until_s).check()
        fields = CODECS[JSON].decode(body, {}, max_rank=limits["max_rank"], max_list=0)
        call: Any = validated(shape_model(spec), fields)
        text = json.dumps(engine.shape(spec, call))
        return Response(text, headers=NO_STORE, media_type=JSON)

    router.add_route("/v1/layers/{layer}", compute, methods=["POST"])
    router.add_route("/v1/layers/{layer}/shape", shape, methods=["POST"])
    return router


class FastPath:
    """A short way to `computes` past `app`, whose middleware and routing take as long as a
    small layer, and to `v2`, which has its own errors; everything else goes to `app`.
    """

    def __init__(self, app: ASGIApp, computes: Mapping[str, Compute], v2: ASGIApp) -> None:
        self._app = app
        self._v2 = v2
        self._computes = {f"/v1/layers/{name}": compute for name, compute in computes.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            compute = self._computes.get(path)
            if compute is not None and scope["method"] == "POST":
                return await compute(scope, receive, send)
            if path == "/v2" or path.startswith("/v2/"):
                return await self._v2(scope, receive, send)
        return await self._app(scope, receive, send)


def validated(model: type[BaseModel], fields: Mapping[str, object]) -> BaseModel:
    """The fields as a request model.

    Raises:
        InvalidRequest: with a pointer to each wrong field.

    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise problems.from_validation(error, model.model_fields) from None
