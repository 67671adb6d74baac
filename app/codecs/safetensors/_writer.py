"""Encodes plain values and tensor payloads as a safetensors file."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.codecs import json as json_codec
from app.codecs.safetensors._dtypes import NAMES
from app.schemas.tensors import DTYPES, TensorPayload

ALIGNMENT = 8
RESPONSE = "response"


def encode(answer: Mapping[str, object], *, encoding: str = "nested") -> list[bytes | memoryview]:  # noqa: ARG001
    """Encode an answer given by dotted names, in pieces: the header, then each tensor's own memory.

    `encoding` applies to JSON only and is ignored.
    """
    tensors = {name: part for name, part in answer.items() if isinstance(part, TensorPayload)}
    rest = {name: part for name, part in answer.items() if name not in tensors}
    # Wider elements first, so that each tensor is aligned to its element size.
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
