"""Plain values and tensor payloads -> safetensors file."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.codecs import json as json_codec
from app.codecs.safetensors._dtypes import NAMES
from app.schemas.tensors import DTYPES, TensorPayload

ALIGNMENT = 8
RESPONSE = "response"
_NOTHING = object()


def encode(answer: Mapping[str, object], *, encoding: str = "nested") -> list[bytes | memoryview]:  # noqa: ARG001
    """The file in pieces: the header, then each tensor's own memory; `encoding` is JSON's alone."""
    tensors: dict[str, TensorPayload] = {}
    rest = {key: _without_tensors(value, key, tensors) for key, value in answer.items()}
    rest = {key: value for key, value in rest.items() if value is not _NOTHING}
    # Wider elements first, so that each tensor begins at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: -DTYPES[item[1].dtype].itemsize)
    header: dict[str, Any] = {
        "__metadata__": {RESPONSE: b"".join(json_codec.encode(rest)).decode()}
    }
    start, pieces = 0, []
    for name, payload in ordered:
        elements: Any = np.frombuffer(payload.data, np.uint8) if payload.data.nbytes else b""
        piece = memoryview(elements)
        end = start + piece.nbytes
        header[name] = {
            "dtype": NAMES[payload.dtype],
            "shape": payload.shape,
            "data_offsets": (start, end),
        }
        pieces.append(piece)
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *pieces]


def _without_tensors(value: Any, path: str, tensors: dict[str, TensorPayload]) -> Any:
    """The value without its tensors, which are put under their paths, and without what is left
    empty by that.
    """
    if isinstance(value, TensorPayload):
        tensors[path] = value
        return _NOTHING
    if isinstance(value, Mapping):
        items = ((key, _without_tensors(v, _below(path, key), tensors)) for key, v in value.items())
        members = {key: rest for key, rest in items if rest is not _NOTHING}
        return members if members or not value else _NOTHING
    if isinstance(value, list):
        entries = (_without_tensors(v, _below(path, str(i)), tensors) for i, v in enumerate(value))
        kept = [rest for rest in entries if rest is not _NOTHING]
        return kept if kept or not value else _NOTHING
    return value


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
