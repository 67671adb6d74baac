"""`python -m benchmarks.chain`: one training step as a chain, beside the same step in torch.

The step is conv, batch norm, ReLU, max pool, conv, batch norm, ReLU, global average, and a 1x1 conv
on a batch of 32 one-channel 12x12 images, with the gradients of every parameter. All contestants
take turns in one process with one thread; the ratios are those of the medians.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import orjson
import torch
import torch.nn.functional as F
from safetensors.numpy import save

from app.api.problems import refusal
from app.codecs import JSON, SAFETENSORS
from app.codecs import json as json_codec
from app.compute import Engine
from app.compute.runtime import prepare_process
from app.layers import LAYERS
from app.main import create_app
from app.operations import Context
from app.operations.sequential import SequentialReader
from app.settings import Settings

IMAGES, CLASSES = (32, 1, 12, 12), 10
AT_MOST = 3.0
Step = Callable[[], Any]


def parameters(first: int, second: int) -> list[dict[str, Any]]:
    """The layers, with their tensors as arrays."""
    draw = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray[Any, Any]:
        return draw.standard_normal(shape, dtype=np.float32)

    def block(channels: int, before: int) -> list[dict[str, Any]]:
        conv = {"weight": array(channels, before, 3, 3), "bias": array(channels), "padding": 1}
        norm = {"weight": array(channels), "bias": array(channels), "training": True}
        return [
            {"layer": "conv2d", **conv},
            {"layer": "batch_norm2d", **norm},
            {"layer": "relu"},
        ]

    head = {"weight": array(CLASSES, second, 1, 1), "bias": array(CLASSES)}
    return [
        *block(first, IMAGES[1]),
        {"layer": "max_pool2d", "kernel_size": 2},
        *block(second, first),
        {"layer": "global_avg_pool"},
        {"layer": "conv2d", **head},
    ]


def in_torch(images: np.ndarray[Any, Any], layers: list[dict[str, Any]]) -> Step:
    """The step in torch; the running statistics are new each time, as they are in a request."""
    names = ("weight", "bias")
    tensors = [torch.from_numpy(e[n].copy()) for e in layers for n in names if n in e]
    leaves = [tensor.requires_grad_() for tensor in (torch.from_numpy(images), *tensors)]
    x, w1, b1, g1, s1, w2, b2, g2, s2, w3, b3 = leaves

    def norm(y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        mean, var = torch.zeros_like(weight), torch.ones_like(weight)
        return F.batch_norm(y, mean, var, weight, bias, training=True)

    def step() -> object:
        y = F.max_pool2d(F.relu(norm(F.conv2d(x, w1, b1, padding=1), g1, s1)), 2)
        y = F.relu(norm(F.conv2d(y, w2, b2, padding=1), g2, s2))
        y = F.conv2d(F.adaptive_avg_pool2d(y, 1), w3, b3)
        return torch.autograd.grad(y, leaves, torch.ones_like(y))

    return step


def in_lamina(body: bytes) -> Step:
    """The chain planned and run, from decoded fields to an answer's payloads."""
    engine = Engine("cpu", Settings().limits)
    reader = SequentialReader(Context(engine, LAYERS, refusal))
    fields = json_codec.decode(body, reader.tensors, max_rank=8, max_list=64)
    return lambda: reader.read(fields).work()


def over_http(client: httpx.AsyncClient, body: bytes, media: str) -> Callable[[], Awaitable[Any]]:
    """The whole service in this process, without a socket."""
    headers = {"Content-Type": media, "Accept": media}

    async def step() -> None:
        response = await client.post("/v1/sequential", content=body, headers=headers)
        assert response.status_code == 200, response.text

    return step


def bodies(images: np.ndarray[Any, Any], layers: list[dict[str, Any]]) -> dict[str, bytes]:
    """The request in both formats."""
    whole = {"input": images, "layers": layers, "grad_output": "ones"}
    tensors = {"input": images} | {
        f"layers.{index}.{name}": value
        for index, layer in enumerate(layers)
        for name, value in layer.items()
        if isinstance(value, np.ndarray)
    }
    plain = [{n: v for n, v in layer.items() if not isinstance(v, np.ndarray)} for layer in layers]
    request = json.dumps({"layers": plain, "grad_output": "ones"})
    return {
        JSON: orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY),
        SAFETENSORS: save(tensors, {"request": request}),
    }


async def measured(channels: tuple[int, int], rounds: int) -> dict[str, float]:
    """The median time of each contestant, ms."""
    images = np.random.default_rng(1).standard_normal(IMAGES, dtype=np.float32)
    layers = parameters(*channels)
    sent = bodies(images, layers)
    transport = httpx.ASGITransport(create_app(Settings(log_level="error")))
    async with httpx.AsyncClient(transport=transport, base_url="http://bench") as client:
        plain = {"torch": in_torch(images, layers), "chain": in_lamina(sent[JSON])}
        remote = {
            "service, JSON": over_http(client, sent[JSON], JSON),
            "service, safetensors": over_http(client, sent[SAFETENSORS], SAFETENSORS),
        }
        times: dict[str, list[float]] = {name: [] for name in (*plain, *remote)}
        for _ in range(rounds):
            for name, step in plain.items():
                begun = time.process_time()
                step()
                times[name].append((time.process_time() - begun) * 1e3)
            for name, call in remote.items():
                begun = time.process_time()
                await call()
                times[name].append((time.process_time() - begun) * 1e3)
    return {name: statistics.median(spent) for name, spent in times.items()}


def main() -> int:
    """Print the medians and their ratios to torch; fails if the chain takes more than 3 times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--channels", type=int, nargs=2, default=(8, 16))
    arguments = parser.parse_args()
    prepare_process()
    medians = asyncio.run(measured(arguments.channels, arguments.rounds))
    for name, ms in medians.items():
        print(f"{name:>22} {ms:7.2f} ms {ms / medians['torch']:6.2f} x torch")
    return medians["chain"] > AT_MOST * medians["torch"]


if __name__ == "__main__":
    raise SystemExit(main())
