"""The plain FastAPI service that a user would write: nested lists, `tolist()`.

`def` routes, which FastAPI runs in its thread pool, as its documentation advises for blocking
work. Each layer stands here twice: answering a dict, as most would write it, and below `/typed`
through a response model, which pydantic prints faster.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.contestants import torch_layers

Nested = list[list[list[list[float]]]]

app = FastAPI()


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


@app.post("/max_pool2d", response_model=None)
def max_pool2d(request: LayerRequest) -> dict[str, Any]:
    return torch_layers.max_pool2d(request.input)


@app.post("/typed/max_pool2d")
def typed_max_pool2d(request: LayerRequest) -> MaxPoolAnswer:
    return MaxPoolAnswer.model_construct(**torch_layers.max_pool2d(request.input))


@app.post("/batch_norm2d", response_model=None)
def batch_norm2d(request: LayerRequest) -> dict[str, Any]:
    return torch_layers.batch_norm2d(request.input)


@app.post("/typed/batch_norm2d")
def typed_batch_norm2d(request: LayerRequest) -> BatchNormAnswer:
    return BatchNormAnswer.model_construct(**torch_layers.batch_norm2d(request.input))
