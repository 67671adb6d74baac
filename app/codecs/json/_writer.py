"""Encodes plain values and tensor payloads as JSON text."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import orjson

from app.codecs._arrays import Array, all_true, as_array, shortest_halves
from app.codecs._paths import nested
from app.schemas.tensors import DTYPES, TensorPayload

OPTIONS = orjson.OPT_SERIALIZE_NUMPY
CHUNK_ELEMENTS = 64 * 1024
"""Elements serialized per call: about a millisecond, during which no other thread can run."""
Piece = bytes | memoryview
_PLACE = b"\x00"
"""Placeholder in the text for the pieces of a large tensor; JSON text never contains this byte."""


def warm_up() -> None:
    """Build the tables for 16-bit floats, which would delay their first request by 0.15 s."""
    for dtype in DTYPES.values():
        if dtype.is_half:
            shortest_halves(dtype.name)


def encode(answer: Mapping[str, object], *, encoding: str = "nested") -> list[Piece]:
    """Serialize an answer given by dotted names.

    Tensors are written as `nested`, `flat`, or `base64`; large ones in pieces of their own. Each
    number is the shortest text that reads back to the same value in its dtype; non-finite numbers
    become "NaN", "Infinity", or "-Infinity".
    """
    # orjson writes `null` for numbers that are not finite: only then is each tensor searched.
    pieces, nulls = _encoded(answer, encoding, is_finite=True)
    if nulls > _null_options(answer):
        pieces, _ = _encoded(answer, encoding, is_finite=False)
    return pieces


def _null_options(answer: Mapping[str, object]) -> int:
    """How many options of an answer are null."""
    options = answer.get("options")
    return sum(value is None for value in options.values()) if isinstance(options, dict) else 0


def _encoded(
    answer: Mapping[str, object], encoding: str, *, is_finite: bool
) -> tuple[list[Piece], int]:
    """The pieces of the text, and the number of nulls in it.

    If the answer `is_finite`, numbers that are not are written as null, but in large tensors.
    """
    large: list[list[Piece]] = []

    def convert(value: object) -> object:
        if not isinstance(value, TensorPayload):
            raise TypeError(f"{type(value).__name__} has no form in JSON")
        # An integer scalar is a count, which requests take as a plain number.
        if encoding == "base64" and (value.shape or DTYPES[value.dtype].is_float):
            large.append([b'"', b64encode(value.data), b'"'])
            text = orjson.Fragment(_PLACE)
            return {"shape": value.shape, "dtype": value.dtype, "base64": text}
        is_nested = encoding == "nested" or not value.shape
        numbers = _numbers(value, is_nested=is_nested, is_finite=is_finite)
        if isinstance(numbers, np.ndarray) and numbers.size > CHUNK_ELEMENTS:
            large.append(list(_pieces(numbers)))
            numbers = orjson.Fragment(_PLACE)
        if is_nested:
            return numbers
        return {"shape": value.shape, "dtype": value.dtype, "data": numbers}

    text = _dumped(nested(answer), convert)
    between = text.split(_PLACE) if large else [text]
    placed = zip(between, [*large, []], strict=True)
    return [piece for rest, own in placed for piece in (rest, *own)], text.count(b"null")


def printed(answer: Mapping[str, object], *, encoding: str = "nested") -> object:
    """Serialize an answer for embedding in another."""
    return orjson.Fragment(b"".join(encode(answer, encoding=encoding)))


def _dumped(answer: Mapping[str, object], convert: Callable[[object], object]) -> bytes:
    try:
        return orjson.dumps(answer, default=convert, option=OPTIONS)
    except TypeError:
        # Counts in a shape request's answer may exceed 64 bits, which only `json` can serialize.
        return json.dumps(answer, separators=(",", ":")).encode()


def _numbers(payload: TensorPayload, *, is_nested: bool, is_finite: bool) -> object:
    """The payload in a form that orjson serializes correctly, or an array of several chunks."""
    array = as_array(payload)
    dtype = DTYPES[payload.dtype]
    if dtype.is_half:
        array = shortest_halves(dtype.name)[array.view(np.uint16)]
    if not payload.shape:
        return orjson.Fragment(_text(array.reshape(1))[1:-1]) if dtype.is_float else array.item()
    if not is_nested or not array.size:
        array = array.reshape(-1)
    is_finite |= not dtype.is_float or array.size > CHUNK_ELEMENTS
    return array if is_finite or all_true(np.isfinite(array)) else orjson.Fragment(_text(array))


def _pieces(array: Array) -> Iterator[Piece]:
    """Serialize an array chunk by chunk."""
    if array.size <= CHUNK_ELEMENTS:
        yield _text(array)
        return
    rows = CHUNK_ELEMENTS // (array.size // len(array))
    separator = b"["
    for start in range(0, len(array), max(rows, 1)):
        yield separator
        separator = b","
        if rows:
            yield memoryview(_text(array[start : start + rows]))[1:-1]
        else:
            yield from _pieces(array[start])
    yield b"]"


def _text(array: Array) -> bytes:
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    return text if array.dtype.kind != "f" else _name_nulls(text, array)


def _name_nulls(text: bytes, array: Array) -> bytes:
    """Replace each `null`, which orjson writes for non-finite numbers, with the number's name."""
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
