"""The layers' routes: catalogue, compute and shape, one operation a layer."""

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

    computes = {name: Compute(spec, engine, threads, limits) for name, spec in layers.items()}

    # Starlette's routes: bodies are read here, so FastAPI's parameters would only cost time.
    async def compute(request: Request) -> Response:
        return await find(request).answer(request)

    async def shape(request: Request) -> Response:
        return await find(request).shape(request)

    def find(request: Request) -> Compute:
        layer = request.path_params["layer"]
        if layer not in computes:
            raise _unknown(layer, layers)
        return computes[layer]

    router.add_route("/v1/layers/{layer}", compute, methods=["POST"])
    router.add_route("/v1/layers/{layer}/shape", shape, methods=["POST"])
    return router


def _unknown(layer: str, layers: Mapping[str, LayerSpec]) -> UnknownLayer:
    near = problems.nearest(layer, layers)
    return UnknownLayer(f"there is no layer of that name; {near}")


class Compute:
    """The compute and shape routes of one layer."""

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

    async def shape(self, request: Request) -> Response:
        """The output shape; its counts may exceed 64 bits, which only `json` prints."""
        body = await read_body(request, self._limits["max_json_body_bytes"])
        fields = CODECS[JSON].decode(body, (), max_rank=self._limits["max_rank"])
        call: Any = validated(shape_model(self._spec), fields)
        return Response(json.dumps(self._engine.shape(self._spec, call)), media_type=JSON)


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
