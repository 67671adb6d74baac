"""The floor for JSON: the same parse, torch call and dump in a bare loop, with nothing checked.

Its answers have the same fields and numbers as Lamina's, which the benchmark checks.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson
import simdjson
import torch
import torch.nn.functional as F

Read = Callable[[bytes], torch.Tensor]
EPS, MOMENTUM = 1e-5, 0.1
_parser = simdjson.Parser()


def with_simdjson(body: bytes) -> torch.Tensor:
    """The input's numbers, flat."""
    document: Any = _parser.parse(body)
    numbers = np.frombuffer(document["input"].as_buffer(of_type="d"), "<f8").astype("<f4")
    del document  # the parser is used again
    return torch.from_numpy(numbers)


def with_orjson(body: bytes) -> torch.Tensor:
    """The input's numbers, nested."""
    return torch.from_numpy(np.array(orjson.loads(body)["input"], "f4"))


def max_pool2d(x: torch.Tensor) -> dict[str, Any]:
    output = F.max_pool2d(x, 2)
    (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output))
    return {"output": output, "output_shape": output.shape, "gradients": {"input": gradient}}


def batch_norm2d(x: torch.Tensor) -> dict[str, Any]:
    channels, count = x.shape[1], x.numel() // x.shape[1]
    weight = torch.ones(channels, requires_grad=True)
    bias = torch.zeros(channels, requires_grad=True)
    running_mean, running_var = torch.zeros(channels), torch.ones(channels)
    output = F.batch_norm(x, running_mean, running_var, weight, bias, True, MOMENTUM, EPS)
    gradients = torch.autograd.grad(output, (x, weight, bias), torch.ones_like(output))
    var, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
    return {
        "output": output,
        "output_shape": output.shape,
        "running_stats": {"mean": running_mean, "var": running_var, "num_batches_tracked": 1},
        "batch_stats": {
            "mean": mean,
            "var": var,
            "var_unbiased": var * (count / (count - 1)),
            "inv_std": (var + EPS).rsqrt(),
        },
        "gradients": dict(zip(("input", "weight", "bias"), gradients, strict=True)),
    }


LAYERS = {"max_pool2d": max_pool2d, "batch_norm2d": batch_norm2d}


class Floor:
    """The floor of one layer and one body, with the faster parser for it."""

    def __init__(
        self, layer: str, body: bytes, shape: tuple[int, ...], constant: Mapping[str, Any]
    ) -> None:
        """`constant` holds the fields of the answer that depend on no number, such as `options`."""
        self._layer = LAYERS[layer]
        self._body = body
        self._shape = shape
        self._constant = constant
        times = {
            read: min(_seconds(partial(read, body), 2) for _ in range(5))
            for read in (with_simdjson, with_orjson)
        }
        self._read: Read = min(times, key=lambda read: times[read])
        self.parser = self._read.__name__.removeprefix("with_")

    def check(self, expected: Mapping[str, Any]) -> None:
        """The floor gives this answer: the same fields, and the same numbers within float32."""
        _check_alike(orjson.loads(self.answer()), expected, "")

    def answer(self) -> bytes:
        """One request's work."""
        x = self._read(self._body).view(self._shape).requires_grad_()
        fields = {**self._constant, **self._layer(x)}
        return orjson.dumps(fields, default=_array, option=orjson.OPT_SERIALIZE_NUMPY)

    def seconds(self, count: int) -> tuple[float, float]:
        """Time and processor time of one request, the means of `count`."""
        return _seconds(self.answer, count)


def _check_alike(found: Any, expected: Any, name: str) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), f"{name}: {sorted(found)}, {sorted(expected)}"
        for key, value in expected.items():
            _check_alike(found[key], value, f"{name}.{key}")
    elif isinstance(expected, float | list):
        arrays = np.array(found), np.array(expected)
        np.testing.assert_allclose(*arrays, rtol=1e-4, atol=1e-3, err_msg=name)
    else:
        assert found == expected, f"{name}: {found}, {expected}"


def _array(tensor: torch.Tensor | tuple[int, ...]) -> object:
    """What orjson can print."""
    return list(tensor) if isinstance(tensor, torch.Size) else tensor.detach().numpy()  # type: ignore[union-attr]


def _seconds(function: Callable[[], object], count: int) -> tuple[float, float]:
    function()
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        function()
    return (time.perf_counter() - begun) / count, (time.process_time() - cpu) / count
