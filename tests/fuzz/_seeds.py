"""The operations' own examples as bodies of requests, JSON and safetensors: what fuzzing begins
with. A new operation brings its own.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from app.codecs import JSON, SAFETENSORS
from app.schemas.tensors import Field, GroupField, TensorField
from tests.fuzz._endpoints import ENDPOINTS, Endpoint

Arrays = dict[str, Any]


def split(endpoint: Endpoint, example: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """A request's tensors by dotted name, and the rest of it."""
    tensors: Arrays = {}
    rest = _rest(example, endpoint.reader.tensors, "", tensors)
    return tensors, rest


def _rest(
    value: Mapping[str, Any], fields: Mapping[str, Field], path: str, tensors: Arrays
) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for name, item in value.items():
        match fields.get(name), item:
            case TensorField(dtype, many=False), list():
                tensors[path + name] = np.array(item, _numpy(dtype))
            case TensorField(dtype), list():
                numbered = {f"{path}{name}.{n}": one for n, one in enumerate(item)}
                tensors |= {key: np.array(one, _numpy(dtype)) for key, one in numbered.items()}
            case GroupField(inner, None), dict():
                rest[name] = _rest(item, inner, f"{path}{name}.", tensors)
            case GroupField(inner), list():
                rest[name] = [
                    _rest(one, inner, f"{path}{name}.{n}.", tensors) for n, one in enumerate(item)
                ]
            case _:
                rest[name] = item
    return rest


def _numpy(dtype: str | None) -> str:
    return dtype or "float32"


def file(tensors: Arrays, rest: Mapping[str, Any]) -> bytes:
    """A safetensors request."""
    return safetensors.numpy.save(tensors, {"request": json.dumps(rest)})


def bodies(endpoint: Endpoint) -> Iterator[tuple[str, bytes]]:
    """The example in each media type that the operation takes."""
    yield JSON, json.dumps(endpoint.example).encode()
    if SAFETENSORS in endpoint.codecs:
        yield SAFETENSORS, file(*split(endpoint, endpoint.example))


def seeds() -> dict[str, bytes]:
    """Inputs of the target `operation`: a line that names the endpoint and the media type, and the
    body. By name; all are answered.
    """
    return {
        f"good-{path.replace('/', '-')}-{media.rpartition('.')[2].rpartition('/')[2]}": (
            f"{path} {media}\n".encode() + body
        )
        for path, endpoint in ENDPOINTS.items()
        for media, body in bodies(endpoint)
    }
