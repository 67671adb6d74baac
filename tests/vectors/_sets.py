"""Sets of golden vectors, each built once; and their tensors as NumPy arrays."""

import functools
from typing import Any

import numpy as np
import torch

from app.compute import Engine
from app.layers import LAYERS
from app.operations.vectors import Case, build
from app.schemas.tensors import TensorPayload
from app.settings import Settings

COMPLETE = 64
"""So many cases cover everything."""
CPU = Engine("cpu", Settings().limits)


@functools.cache
def cases(layer: str, count: int = COMPLETE, **fields: Any) -> tuple[Case, ...]:
    """A set, with the seed 0."""
    return tuple(build(CPU, LAYERS[layer], count=count, **fields))


def array(payload: TensorPayload) -> Any:
    """The elements in float64, or in int64 for integers, by way of torch."""
    if 0 in payload.shape:
        return np.zeros(payload.shape)
    dtype = getattr(torch, payload.dtype)
    tensor = torch.frombuffer(payload.data, dtype=dtype).view(payload.shape)
    return (tensor.double() if dtype.is_floating_point else tensor.long()).numpy()


def tensors(parts: Any) -> dict[str, Any]:
    """The arrays of a request or of an answer."""
    return {name: array(one) for name, one in parts.items() if isinstance(one, TensorPayload)}
