"""The plain FastAPI service that a user would write: nested lists, `tolist()`.

`def` routes, which FastAPI runs in its thread pool, as its documentation advises for blocking
work. Each layer stands here twice: answering a dict, as most would write it, and below `/typed`
through a response model, which pydantic prints faster.
"""

from typing import Any

import torch
import torch.nn.functional as F
from fastapi import FastAPI
from pydantic import BaseModel

Nested = list[list[list[list[float]]]]

app = FastAPI()


class MaxPoolRequest(BaseModel):
    input: Nested
    kernel_size: int = 2


class MaxPoolAnswer(BaseModel):
    output: Nested
    grad_input: Nested


class BatchNormRequest(BaseModel):
    input: Nested
    eps: float = 1e-5
    momentum: float = 0.1


class BatchNormAnswer(BaseModel):
    output: Nested
    grad_input: Nested
    grad_weight: list[float]
    grad_bias: list[float]
    running_mean: list[float]
    running_var: list[float]


@app.get("/livez")
def livez() -> dict[str, str]:
    return {"status": "alive"}


@app.post("/max_pool2d", response_model=None)
def max_pool2d(request: MaxPoolRequest) -> dict[str, Any]:
    x = torch.tensor(request.input, requires_grad=True)
    output = F.max_pool2d(x, request.kernel_size)
    output.sum().backward()
    assert x.grad is not None
    return {"output": output.tolist(), "grad_input": x.grad.tolist()}


@app.post("/typed/max_pool2d")
def typed_max_pool2d(request: MaxPoolRequest) -> MaxPoolAnswer:
    return MaxPoolAnswer.model_construct(**max_pool2d(request))


@app.post("/batch_norm2d", response_model=None)
def batch_norm2d(request: BatchNormRequest) -> dict[str, Any]:
    x = torch.tensor(request.input, requires_grad=True)
    channels = x.shape[1]
    weight = torch.ones(channels, requires_grad=True)
    bias = torch.zeros(channels, requires_grad=True)
    mean, var = torch.zeros(channels), torch.ones(channels)
    output = F.batch_norm(x, mean, var, weight, bias, True, request.momentum, request.eps)
    output.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert bias.grad is not None
    return {
        "output": output.tolist(),
        "grad_input": x.grad.tolist(),
        "grad_weight": weight.grad.tolist(),
        "grad_bias": bias.grad.tolist(),
        "running_mean": mean.tolist(),
        "running_var": var.tolist(),
    }


@app.post("/typed/batch_norm2d")
def typed_batch_norm2d(request: BatchNormRequest) -> BatchNormAnswer:
    return BatchNormAnswer.model_construct(**batch_norm2d(request))
