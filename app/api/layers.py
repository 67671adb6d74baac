"""The layers' routes: catalogue, compute and shape, one operation a layer."""

import functools
import json
import math
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from app.api import problems
from app.api.bodies import read_body
from app.codecs import CODECS
from app.compute import Engine
from app.errors import UnknownLayer
from app.layers import LayerSpec, Plan, compute_model, shape_model
from app.scheduling import Threads

JSON = "application/json"
COMPUTE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


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


def build_router(
    layers: Mapping[str, LayerSpec], engine: Engine, threads: Threads, limits: Mapping[str, int]
) -> APIRouter:
    """Routes for every layer of the list; `openapi.py` describes them."""
    router = APIRouter()
    cards = {name: card(spec) for name, spec in layers.items()}
    catalogue = json.dumps({"layers": list(cards.values())}).encode()

    @router.get("/v1/layers", name="list_layers")
    async def list_layers() -> Response:
        return Response(catalogue, media_type=JSON)

    @router.get("/v1/layers/{layer}", name="get_layer")
    async def get_layer(layer: str) -> Response:
        if layer not in cards:
            raise _unknown(layer, layers)
        return Response(json.dumps(cards[layer]), media_type=JSON)

    for spec in layers.values():
        compute = Compute(spec, engine, threads, limits)
        path = f"/v1/layers/{spec.name}"
        router.add_api_route(path, compute.answer, methods=["POST"], name=spec.name)
        shape = functools.partial(_shape, spec, engine, limits)
        router.add_api_route(
            f"{path}/shape", _endpoint(shape), methods=["POST"], name=f"{spec.name}_shape"
        )

    @router.post("/v1/layers/{layer}", include_in_schema=False)
    @router.post("/v1/layers/{layer}/shape", include_in_schema=False)
    async def unknown_layer(layer: str) -> Response:
        raise _unknown(layer, layers)

    return router


def _unknown(layer: str, layers: Mapping[str, LayerSpec]) -> UnknownLayer:
    near = problems.nearest(layer, layers)
    return UnknownLayer(f"there is no layer of that name; {near}")


def _endpoint(function: Any) -> Any:
    async def endpoint(request: Request) -> Response:
        response: Response = await function(request)
        return response

    return endpoint


class Compute:
    """The compute route of one layer."""

    def __init__(
        self, spec: LayerSpec, engine: Engine, threads: Threads, limits: Mapping[str, int]
    ) -> None:
        self._spec = spec
        self._engine = engine
        self._threads = threads
        self._limits = limits
        self._model = compute_model(spec)
        self._tensors = frozenset((*(port.name for port in spec.inputs), "grad_output"))

    async def answer(self, request: Request) -> Response:
        """Read, plan, compute, print."""
        body = await read_body(request, self._limits["max_json_body_bytes"])
        begun = time.perf_counter()
        codec = CODECS[JSON]
        fields = await self._threads.codec(
            len(body), codec.decode, body, self._tensors, max_rank=self._limits["max_rank"]
        )
        call: Any = validated(self._model, fields)
        plan = self._engine.plan(self._spec, call)
        decode_ms = (time.perf_counter() - begun) * 1e3
        result, queue_ms, compute_ms = await self._threads.compute(
            self._engine.run, self._spec, call, plan
        )
        begun = time.perf_counter()
        text = await self._threads.codec(
            answer_bytes(plan, call), codec.encode, result, encoding=call.encoding
        )
        encode_ms = (time.perf_counter() - begun) * 1e3
        timing = (
            f"queue;dur={queue_ms:.3f}, decode;dur={decode_ms:.3f}, "
            f"compute;dur={compute_ms:.3f}, encode;dur={encode_ms:.3f}"
        )
        return Response(text, 200, {**COMPUTE_HEADERS, "Server-Timing": timing}, JSON)


async def _shape(
    spec: LayerSpec, engine: Engine, limits: Mapping[str, int], request: Request
) -> Response:
    body = await read_body(request, limits["max_json_body_bytes"])
    fields = CODECS[JSON].decode(body, (), max_rank=limits["max_rank"])
    call: Any = validated(shape_model(spec), fields)
    # The counts may exceed 64 bits, which only the standard library prints.
    return Response(json.dumps(engine.shape(spec, call)), media_type=JSON)


def validated(model: type[BaseModel], fields: Mapping[str, object]) -> BaseModel:
    """The fields as a request model.

    Raises:
        InvalidRequest: with a pointer to each wrong field.

    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise problems.from_validation(error, model.model_fields) from None


def answer_bytes(plan: Plan, call: Any) -> int:
    """A rough size of the answer's text, to choose where it is printed."""
    numbers = sum(math.prod(shape) for shape in plan.outputs.values())
    if call.grad_output is not None:
        numbers += sum(math.prod(shape) for shape in plan.inputs.values())
    explained: int = 1 << 20 if call.explain else 0
    return 10 * numbers + explained
