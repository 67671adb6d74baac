"""Requests that many scenarios share."""

from typing import Any

from tests.oracle._numbers import distinct, normal, whole
from tests.oracle._request import Array

DIMS = (1, 2, 3)
SIDES = {1: (7,), 2: (7, 6), 3: (5, 4, 6)}
CUBES = {1: (5,), 2: (5, 5), 3: (5, 5, 5)}
EXTREMES = ("output", "gradients.input")


def image(dims: int, seed: int = 0, dtype: str = "float32") -> Array:
    """Random numbers of a small feature map."""
    return normal(2, 3, *SIDES[dims], seed=seed, dtype=dtype)


def ranks(dims: int, seed: int = 0) -> Array:
    """A feature map without ties."""
    return distinct(2, 3, *SIDES[dims], seed=seed)


def few(dims: int, seed: int = 0) -> Array:
    """A feature map with many ties, between -1 and 1."""
    return whole(2, 3, *SIDES[dims], seed=seed, low=-1, high=2)


def pool(dims: int, **more: Any) -> dict[str, Any]:
    """A pooling with kernel 2, and a gradient of ones."""
    return {"input": image(dims), "kernel_size": 2, "grad_output": "ones", **more}


def norm(dims: int, *, running: bool = True, scale: float = 0.125, **more: Any) -> dict[str, Any]:
    """A normalisation of four channels with weight and bias, small enough for eps to show."""
    body: dict[str, Any] = {
        "input": normal(3, 4, *SIDES[dims], seed=5) * scale,
        "weight": normal(4, seed=1), "bias": normal(4, seed=2),
        "grad_output": normal(3, 4, *SIDES[dims], seed=3),
    }  # fmt: skip
    return {**body, **(stats() if running else {}), **more}


def stats(channels: int = 4) -> dict[str, Any]:
    """Running statistics, and training."""
    return {
        "training": True,
        "running_mean": normal(channels, seed=7),
        "running_var": abs(normal(channels, seed=8)) + 0.5,
    }


def convolution(dims: int, **more: Any) -> dict[str, Any]:
    """A convolution of three channels to three, with a kernel of three."""
    return {
        "input": normal(2, 3, *CUBES[dims], seed=4),
        "weight": normal(3, 3, *[3] * dims, seed=6),
        "bias": normal(3, seed=9),
        "grad_output": "ones",
        **more,
    }
