"""Plain values and tensor payloads -> JSON text."""

from base64 import b64encode
from collections.abc import Mapping

import numpy as np
import orjson

from app.codecs._arrays import Array, all_true, as_array, shortest_halves
from app.schemas.tensors import DTYPES, TensorPayload

OPTIONS = orjson.OPT_SERIALIZE_NUMPY
CHUNK_ELEMENTS = 64 * 1024
"""Elements printed in one call: about a millisecond, in which no other thread can run."""


def encode(answer: Mapping[str, object], *, encoding: str = "nested") -> list[bytes]:
    """Print an answer in one piece, its tensors `nested`, `flat` or `base64`.

    Each number is the shortest text that reads back to the same value in its dtype; what is
    not finite becomes "NaN", "Infinity" or "-Infinity".
    """

    def convert(value: object) -> object:
        if not isinstance(value, TensorPayload):
            raise TypeError(f"{type(value).__name__} has no form in JSON")
        if encoding == "base64":
            text = b64encode(value.data).decode()
            return {"shape": value.shape, "dtype": value.dtype, "base64": text}
        if encoding == "nested" or not value.shape:
            return _numbers(value, nested=True)
        flat = _numbers(value, nested=False)
        return {"shape": value.shape, "dtype": value.dtype, "data": flat}

    return [orjson.dumps(answer, default=convert, option=OPTIONS)]


def _numbers(payload: TensorPayload, *, nested: bool) -> object:
    """The payload in a form that orjson prints rightly."""
    array = as_array(payload)
    dtype = DTYPES[payload.dtype]
    if dtype.is_half:
        array = shortest_halves(dtype.name)[array.view(np.uint16)]
    if not payload.shape:
        return orjson.Fragment(_text(array.reshape(1))[1:-1]) if dtype.is_float else array.item()
    if not nested:
        array = array.reshape(-1)
    if array.size <= CHUNK_ELEMENTS and (not dtype.is_float or all_true(np.isfinite(array))):
        return array
    return orjson.Fragment(_text(array))


def _text(array: Array) -> bytes:
    if array.size > CHUNK_ELEMENTS:
        rows = CHUNK_ELEMENTS // (array.size // len(array))
        parts = (
            [_text(row) for row in array]
            if rows == 0
            else [memoryview(_text(array[i : i + rows]))[1:-1] for i in range(0, len(array), rows)]
        )
        return b"[" + b",".join(parts) + b"]"
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    return text if array.dtype.kind != "f" else _name_nulls(text, array)


def _name_nulls(text: bytes, array: Array) -> bytes:
    """Orjson prints what is not finite as null, in order: put the names there."""
    strange = array[~np.isfinite(array)]
    if not strange.size:
        return text
    names = np.where(
        np.isnan(strange), b'"NaN"', np.where(strange > 0, b'"Infinity"', b'"-Infinity"')
    )
    before, *behind = text.split(b"null")
    return before + b"".join(
        name + piece for name, piece in zip(names.tolist(), behind, strict=True)
    )
