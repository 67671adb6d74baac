"""The floor for bytes: a bare Starlette app that receives, runs torch and sends.

The body is the float32 numbers alone, the shape a header; nothing is checked.
"""

from typing import Any

import torch
import torch.nn.functional as F
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def read(request: Request, body: bytes) -> torch.Tensor:
    shape = [int(n) for n in request.headers["x-shape"].split(",")]
    return torch.frombuffer(bytearray(body), dtype=torch.float32).view(shape).requires_grad_()


def joined(*tensors: torch.Tensor) -> Response:
    arrays: list[Any] = [tensor.detach().numpy() for tensor in tensors]
    return Response(b"".join(memoryview(array).cast("B") for array in arrays))


async def max_pool2d(request: Request) -> Response:
    x = read(request, await request.body())
    output = F.max_pool2d(x, 2)
    (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output))
    return joined(output, gradient)


async def batch_norm2d(request: Request) -> Response:
    x = read(request, await request.body())
    channels = x.shape[1]
    weight = torch.ones(channels, requires_grad=True)
    bias = torch.zeros(channels, requires_grad=True)
    mean, var = torch.zeros(channels), torch.ones(channels)
    output = F.batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5)
    gradients = torch.autograd.grad(output, (x, weight, bias), torch.ones_like(output))
    return joined(output, *gradients, mean, var)


app = Starlette(
    routes=[
        Route("/max_pool2d", max_pool2d, methods=["POST"]),
        Route("/batch_norm2d", batch_norm2d, methods=["POST"]),
    ]
)
