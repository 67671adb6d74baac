"""Output tensors -> answer's bytes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from app.codecs import json as json_codec
from app.codecs.open_inference._messages import NAMES, Inference
from app.schemas.tensors import TensorPayload


def encode(
    model: str, request: Inference, outputs: Mapping[str, TensorPayload]
) -> tuple[list[bytes | memoryview], int | None]:
    """The answer in pieces, and the length of its JSON where bytes follow."""
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
            entry["data"] = _printed(payload)
        entries.append(entry)
    message = {"model_name": model, "model_version": "1", "outputs": entries}
    if request.id is not None:
        message["id"] = request.id
    text = orjson.dumps(message)
    return [text, *blobs], len(text) if blobs else None


def _printed(payload: TensorPayload) -> orjson.Fragment:
    """The numbers in row-major order, whatever the shape."""
    flat = payload._replace(shape=(math.prod(payload.shape),))
    text = b"".join(json_codec.encode({"data": flat}))
    return orjson.Fragment(text[len(b'{"data":') : -1])
