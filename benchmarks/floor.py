"""The floor for JSON: the same parse, torch call and dump in a bare loop, in one process."""

import time
from typing import Any

import numpy as np
import orjson
import simdjson
import torch
import torch.nn.functional as F

PRINT = orjson.OPT_SERIALIZE_NUMPY


def answer(parser: simdjson.Parser, body: bytes, shape: tuple[int, ...], layer: str) -> bytes:
    """One request's work, with nothing checked."""
    document: Any = parser.parse(body)
    numbers = np.frombuffer(document["input"].as_buffer(of_type="d"), "<f8").astype("<f4")
    del document
    x = torch.from_numpy(numbers).view(shape).requires_grad_()
    if layer == "max_pool2d":
        output = F.max_pool2d(x, 2)
        (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output))
        parts = {"output": output, "gradient": gradient}
    else:
        channels = shape[1]
        weight = torch.ones(channels, requires_grad=True)
        bias = torch.zeros(channels, requires_grad=True)
        mean, var = torch.zeros(channels), torch.ones(channels)
        output = F.batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5)
        gradients = torch.autograd.grad(output, (x, weight, bias), torch.ones_like(output))
        names = ("input", "weight", "bias")
        parts = {"output": output, **dict(zip(names, gradients, strict=True))}
        parts |= {"mean": mean, "var": var}
    return orjson.dumps({k: v.detach().numpy() for k, v in parts.items()}, option=PRINT)


def seconds(body: bytes, shape: tuple[int, ...], layer: str, count: int) -> float:
    """Time of one request, the mean of `count`."""
    parser = simdjson.Parser()
    answer(parser, body, shape, layer)
    begun = time.perf_counter()
    for _ in range(count):
        answer(parser, body, shape, layer)
    return (time.perf_counter() - begun) / count
