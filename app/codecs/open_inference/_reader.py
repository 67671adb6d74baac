"""Decodes a request's bytes to an `Inference`."""

import heapq
import math
from collections.abc import Iterator
from typing import Any

import simdjson

from app.codecs.json._tensors import TensorReader, plain
from app.codecs.json._text import members, outside_strings, parse
from app.codecs.open_inference._messages import DTYPE_OF, FOREIGN, Inference, Output
from app.errors import InvalidRequest, MalformedBody
from app.schemas.tensors import DTYPES, Shape, TensorPayload, json_kind

MAX_EXTENT = 2**31 - 1
UNSERVED = {
    "shared_memory": "send the tensor's bytes in the body",
    "classification": "request the output and rank it",
}
"""Tensor parameters that are not supported, and what to do instead."""


def decode(
    body: bytes | bytearray, header_length: int | None, *, max_rank: int, max_tensors: int
) -> Inference:
    """Decode a request whose first `header_length` bytes are JSON; None: all are, 0: none are.

    Raises:
        MalformedBody: the JSON or the framing is invalid.
        InvalidRequest: a tensor that does not fit its shape or datatype.

    """
    if header_length == 0:
        return _raw(body)
    length = len(body) if header_length is None else header_length
    if length > len(body):
        raise MalformedBody(
            f"Inference-Header-Content-Length is {length}; the body has only {len(body)} bytes"
        )
    text = _quoted(body[:length])
    document = parse(simdjson.Parser(), text)
    blob = memoryview(bytearray(memoryview(body)[length:]))
    # Null means that the member is omitted, as in KServe.
    found = dict(members(document))
    id_, asked = found.get("id"), found.get("outputs")
    parameters = _parameters(found.get("parameters"), "parameters")
    entries = _objects(found.get("inputs"), "inputs", max_tensors)
    inputs: dict[str, TensorPayload] = {}
    start = 0
    for index, entry in enumerate(entries):
        pointer = f"inputs/{index}"
        name, payload, size = _input(entry, pointer, blob, start, max_rank)
        if name in inputs:
            raise InvalidRequest.at(pointer, "duplicate-field", f"{pointer}: duplicate name {name}")
        inputs[name] = payload
        start += size
    if start != len(blob):
        raise MalformedBody(f"bytes left over after the inputs: {len(blob) - start}")
    _check_flat(text, entries, asked)
    binary_default = _flag(parameters, "binary_data_output", "parameters") is True
    return Inference(
        id=None if id_ is None else _text(id_, "id"),
        inputs=inputs,
        # An empty list of outputs requests all of them, as in Triton.
        outputs=(None if asked is None else _outputs(asked, max_tensors, binary_default)) or None,
        parameters=parameters,
        binary_default=binary_default,
    )


def _raw(body: bytes | bytearray) -> Inference:
    """Decode a body that holds only the bytes of a single input, a float32 vector."""
    if len(body) % 4:
        raise MalformedBody(f"a body without a header is FP32 numbers; got {len(body)} bytes")
    payload = TensorPayload("float32", (len(body) // 4,), memoryview(bytearray(body)))
    return Inference(None, {"input": payload}, None, {}, binary_default=True)


def _quoted(text: bytes | bytearray) -> bytes | bytearray:
    """Put quotes around the bare NaN and Infinity that some clients send."""
    quoted, done = bytearray(), 0
    places = heapq.merge(_places(text, b"NaN"), _places(text, b"Infinity"))
    for start, end in outside_strings(text, places):
        start -= text[start - 1 : start] == b"-"
        quoted += b'"'.join((text[done:start], text[start:end], b""))
        done = end
    return quoted + text[done:] if done else text


def _places(text: bytes | bytearray, word: bytes) -> Iterator[tuple[int, int]]:
    start = text.find(word)
    while start >= 0:
        yield start, start + len(word)
        start = text.find(word, start + len(word))


def _objects(value: Any, pointer: str, most: int) -> list[Any]:
    if not isinstance(value, simdjson.Array):
        raise InvalidRequest.at(pointer, "missing", f"{pointer}: expected a list of tensors")
    if len(value) > most:
        detail = f"{pointer}: expected at most {most} tensors; got {len(value)}"
        raise InvalidRequest.at(pointer, "too-long", detail)
    entries = list(value)
    for index, entry in enumerate(entries):
        if not isinstance(entry, simdjson.Object):
            where = f"{pointer}/{index}"
            raise InvalidRequest.at(where, "type", f"{where}: expected an object")
    return entries


def _input(
    entry: Any, pointer: str, blob: memoryview, start: int, max_rank: int
) -> tuple[str, TensorPayload, int]:
    """The name and payload of one input, and how many bytes of the blob it takes, from `start`."""
    found = dict(members(entry))
    name = _text(found.get("name"), f"{pointer}/name")
    datatype = _text(found.get("datatype"), f"{pointer}/datatype")
    if datatype not in DTYPE_OF:
        came = datatype if datatype in FOREIGN else "another"
        detail = f"{pointer}/datatype: expected one of {', '.join(DTYPE_OF)}; got {came}"
        raise InvalidRequest.at(f"{pointer}/datatype", "dtype-mismatch", detail)
    dtype = DTYPES[DTYPE_OF[datatype]]
    shape = _shape(found.get("shape"), f"{pointer}/shape", max_rank)
    parameters = _tensor_parameters(found.get("parameters"), f"{pointer}/parameters")
    size, data = parameters.get("binary_data_size"), found.get("data")
    if (size is None) == (data is None):
        detail = f"{pointer}: expected exactly one of data and binary_data_size"
        raise InvalidRequest.at(pointer, "conflict", detail)
    if size is None:
        if not isinstance(data, simdjson.Array):
            raise InvalidRequest.at(f"{pointer}/data", "type", f"{pointer}/data: expected a list")
        return name, _listed(TensorReader(dtype, max_rank), data, shape, f"{pointer}/data"), 0
    if isinstance(size, bool) or not isinstance(size, int | float):
        where = f"{pointer}/parameters/binary_data_size"
        detail = f"{where}: expected a number of bytes; got {json_kind(size)}"
        raise InvalidRequest.at(where, "type", detail)
    wanted = dtype.itemsize * math.prod(shape)
    if type(size) is not int or size != wanted or size > len(blob) - start:
        detail = (
            f"{pointer}: shape {list(shape)} of {datatype} needs a binary_data_size of {wanted}; "
            f"{len(blob) - start} bytes are left in the body"
        )
        raise InvalidRequest.at(pointer, "shape-mismatch", detail)
    elements = blob[start : start + size]
    if start % dtype.itemsize:  # torch needs numbers aligned to their size
        elements = memoryview(bytearray(elements))
    return name, TensorPayload(dtype.name, shape, elements), size


def _listed(reader: TensorReader, data: Any, shape: Shape, pointer: str) -> TensorPayload:
    """Read numbers from a flat list, or from nested lists of the tensor's shape."""
    if not len(data) or not isinstance(data[0], simdjson.Array):
        return reader.flat(shape, data, pointer)
    payload = reader.read(data, pointer)
    if payload.shape != shape:
        detail = f"{pointer}: expected shape {list(shape)}; got {list(payload.shape)}"
        raise InvalidRequest.at(pointer, "shape-mismatch", detail)
    reader.walk(data, shape, pointer)
    return payload


def _check_flat(text: bytes | bytearray, entries: list[Any], asked: Any) -> None:
    """Refuse lists among a flat list's numbers, which a buffer hides if their count fits.

    There are none if the text has no brackets other than those of the known lists.
    """
    data: list[Any] = [entry.get("data") for entry in entries]
    lists = [*data, *(entry.get("shape") for entry in entries), asked]
    if text.count(b"[") == 1 + sum(isinstance(value, simdjson.Array) for value in lists):
        return
    for index, value in enumerate(data):
        kinds = set(map(type, value)) if isinstance(value, simdjson.Array) else set()
        if simdjson.Array in kinds and len(kinds) > 1:
            pointer = f"inputs/{index}/data"
            detail = f"{pointer}: expected either numbers or rows; got both"
            raise InvalidRequest.at(pointer, "ragged", detail)


def _shape(value: Any, pointer: str, max_rank: int) -> Shape:
    shape = plain(value, pointer)
    if not isinstance(shape, list) or not all(
        type(n) is int and 0 <= n <= MAX_EXTENT for n in shape
    ):
        detail = f"{pointer}: expected a list of integers from 0 to {MAX_EXTENT}"
        raise InvalidRequest.at(pointer, "type", detail)
    if len(shape) > max_rank:
        detail = f"{pointer}: expected at most {max_rank} axes; got {len(shape)}"
        raise InvalidRequest.at(pointer, "too-deep", detail)
    return tuple(shape)


def _outputs(value: Any, most: int, binary_default: bool) -> tuple[Output, ...]:
    outputs: list[Output] = []
    for index, entry in enumerate(_objects(value, "outputs", most)):
        pointer = f"outputs/{index}"
        name = _text(entry.get("name"), f"{pointer}/name")
        parameters = _tensor_parameters(entry.get("parameters"), f"{pointer}/parameters")
        binary = _flag(parameters, "binary_data", f"{pointer}/parameters")
        if name in (output.name for output in outputs):
            raise InvalidRequest.at(pointer, "duplicate-field", f"{pointer}: duplicate name {name}")
        outputs.append(Output(name, binary_default if binary is None else binary))
    return tuple(outputs)


def _parameters(value: Any, pointer: str) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, simdjson.Object):
        raise InvalidRequest.at(pointer, "type", f"{pointer}: expected an object")
    return plain(value, pointer)  # type: ignore[no-any-return]


def _tensor_parameters(value: Any, pointer: str) -> dict[str, object]:
    """Read a tensor's parameters, refusing extensions that are not supported."""
    parameters = _parameters(value, pointer)
    for name in parameters:
        for prefix, instead in UNSERVED.items():
            if name.startswith(prefix):
                detail = f"{pointer}/{name[:64]}: {prefix} is not supported; {instead}"
                raise InvalidRequest.at(f"{pointer}/{name[:64]}", "not-served", detail)
    return parameters


def _flag(parameters: dict[str, Any], name: str, pointer: str) -> bool | None:
    value: Any = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        detail = f"{pointer}/{name}: expected true or false; got {json_kind(value)}"
        raise InvalidRequest.at(f"{pointer}/{name}", "type", detail)
    return value


def _text(value: Any, pointer: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest.at(pointer, "type", f"{pointer}: expected a string")
    return value
