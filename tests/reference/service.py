"""Calls the service with NumPy arrays, bypassing the codecs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.compute import Engine
from app.layers import LAYERS, LayerSpec, compute_model
from app.schemas.tensors import DTYPES, TensorPayload
from tests.reference._windows import Array
from tests.reference.precision import from_bfloat16, to_bfloat16


def ask(
    engine: Engine, layer: str, body: Mapping[str, Any], planted: LayerSpec | None = None
) -> dict[str, Array]:
    """Return the answer's tensors by dotted name; `planted` is a layer to run in place of `layer`.

    Raises:
        InvalidRequest: the request was refused.

    """
    spec = planted or LAYERS[layer]
    dtype = body.get("dtype", "float32")
    fields = {name: _field(value, dtype, name) for name, value in body.items()}
    call = compute_model(spec).model_validate(fields)
    answer = engine.run(spec, call, engine.plan(spec, call)[0])
    return {
        name: _array(payload)
        for name, payload in answer.items()
        if isinstance(payload, TensorPayload)
    }


def _field(value: Any, dtype: str, name: str) -> Any:
    if isinstance(value, np.ndarray):
        return _payload(value, "int64" if name == "indices" else dtype)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return tuple(_payload(item, dtype) for item in value)
    return value


def _payload(array: Array, dtype: str) -> TensorPayload:
    storage = DTYPES[dtype].storage
    stored: Any = to_bfloat16(array) if dtype == "bfloat16" else array.astype(storage)
    elements: Any = np.ascontiguousarray(stored).ravel()
    return TensorPayload(dtype, array.shape, memoryview(elements))


def _array(payload: TensorPayload) -> Array:
    data: Any = payload.data
    stored = np.frombuffer(data, DTYPES[payload.dtype].storage)
    if payload.dtype == "bfloat16":
        stored = from_bfloat16(stored)
    elif DTYPES[payload.dtype].is_float:
        stored = stored.astype(np.float64)
    return stored.reshape(payload.shape)
