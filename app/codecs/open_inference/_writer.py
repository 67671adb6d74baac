"""Encodes output tensors as an answer's bytes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.codecs import json as json_codec
from app.codecs.open_inference._messages import NAMES, Inference
from app.schemas.tensors import TensorPayload


def encode(
    model: str, request: Inference, outputs: Mapping[str, TensorPayload]
) -> tuple[list[bytes | memoryview], int | None]:
    """Encode the answer in pieces; also returns the length of its JSON if bytes follow."""
    asked = {output.name: output.binary for output in request.outputs or ()}
    entries: list[dict[str, Any]] = []
    blobs: list[bytes | memoryview] = []
    for name, payload in outputs.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": NAMES[payload.dtype],
            "shape": payload.shape,
        }
        if asked.get(name, request.binary_default):
            size = payload.data.nbytes
            elements: Any = np.frombuffer(payload.data, np.uint8) if size else b""
            blobs.append(memoryview(elements))
            entry["parameters"] = {"binary_data_size": size}
        else:
            # In row-major order, whatever the shape.
            entry["data"] = payload._replace(shape=(math.prod(payload.shape),))
        entries.append(entry)
    message: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": entries}
    if request.id is not None:
        message["id"] = request.id
    pieces = json_codec.encode(message)
    return [*pieces, *blobs], sum(map(len, pieces)) if blobs else None
