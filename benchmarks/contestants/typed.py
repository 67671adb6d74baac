"""The FastAPI service that a user would write: nested lists in typed models, `tolist()`.

`/LAYER` is the service that demands are held against. It answers through a response model, which
pydantic serializes straight to bytes, and its routes are `def`, which FastAPI runs in its thread
pool, as its documentation advises for work that blocks. `model_construct` spares it a second
validation. Below the other prefixes stand the other choices that a user has, to show that this one
is sensible; see "The typed service in other ways" in docs/benchmarks.md.
"""

import warnings
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import FastAPI, Response
from fastapi.responses import ORJSONResponse
from pydantic import BaseModel

from benchmarks.contestants import torch_layers

Nested = list[list[list[list[float]]]]
Layer = Callable[[Any], dict[str, Any]]
WAYS = {
    "": "`def`, response model",
    "/async": "`async def`, response model",
    "/orjsonresponse": "`def`, response model, `ORJSONResponse`",
    "/orjson": "`def`, untyped answer, `orjson.dumps`",
    "/dict": "`def`, untyped answer",
}
"""The ways by prefix."""


class LayerRequest(BaseModel):
    input: Nested


class MaxPoolAnswer(BaseModel):
    output: Nested
    grad_input: Nested


class BatchNormAnswer(MaxPoolAnswer):
    grad_weight: list[float]
    grad_bias: list[float]
    running_mean: list[float]
    running_var: list[float]


ANSWERS: dict[str, type[MaxPoolAnswer]] = {
    "max_pool2d": MaxPoolAnswer,
    "batch_norm2d": BatchNormAnswer,
}
app = FastAPI()


@app.post("/max_pool2d")
def max_pool2d(request: LayerRequest) -> MaxPoolAnswer:
    return MaxPoolAnswer.model_construct(**torch_layers.max_pool2d(request.input))


@app.post("/batch_norm2d")
def batch_norm2d(request: LayerRequest) -> BatchNormAnswer:
    return BatchNormAnswer.model_construct(**torch_layers.batch_norm2d(request.input))


def add_other_ways(layer: str, compute: Layer, model: type[MaxPoolAnswer]) -> None:
    """The same layer below the other prefixes."""

    def typed(request: LayerRequest) -> Any:
        return model.model_construct(**compute(request.input))

    async def on_the_loop(request: LayerRequest) -> Any:
        return typed(request)

    def printed(request: LayerRequest) -> Response:
        return Response(orjson.dumps(compute(request.input)), media_type="application/json")

    def untyped(request: LayerRequest) -> dict[str, Any]:
        return compute(request.input)

    app.post(f"/async/{layer}", response_model=model)(on_the_loop)
    app.post(f"/orjson/{layer}", response_model=None)(printed)
    app.post(f"/dict/{layer}", response_model=None)(untyped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FastAPI deprecates it in favor of response models
        app.post(f"/orjsonresponse/{layer}", response_model=model, response_class=ORJSONResponse)(
            typed
        )


for _name, _compute in torch_layers.LAYERS.items():
    add_other_ways(_name, _compute, ANSWERS[_name])
