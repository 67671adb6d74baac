"""What goes through a codec comes out bit for bit: hard values, in every dtype and protocol."""

import base64
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy as library
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.codecs import json as json_codec
from app.codecs import open_inference, safetensors
from app.codecs.open_inference import NAMES
from app.codecs.safetensors._dtypes import NAMES as CODES
from app.errors import InvalidRequest
from app.schemas.tensors import DTYPES, TensorField, TensorPayload
from tests._soak import rounds

FLOAT_BITS = {"float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23), "float64": (11, 52)}
"""Bits of the exponent and of the mantissa."""
EXAMPLES = settings(max_examples=rounds(150, 3000), deadline=None)


def hard_patterns(dtype: str) -> list[int]:
    """Bits of zeros, subnormals, edges of the range, infinities, NaNs with payloads."""
    bits = DTYPES[dtype].bits
    if dtype not in FLOAT_BITS:
        return [0, 1, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1]
    exponent, mantissa = FLOAT_BITS[dtype]
    infinity, one = ((1 << exponent) - 1) << mantissa, ((1 << (exponent - 1)) - 1) << mantissa
    quiet = 1 << (mantissa - 1)
    patterns = [
        *(0, 1, 2, (1 << mantissa) - 1, 1 << mantissa, one, one + 1, infinity - 1, infinity),
        *(infinity + 1, infinity + quiet, infinity + quiet + 3, infinity + (1 << mantissa) - 1),
    ]
    return [pattern | sign << (bits - 1) for sign in (0, 1) for pattern in patterns]


@st.composite
def payloads(draw: st.DrawFn) -> TensorPayload:
    """A tensor of any dtype, from no axes on, some of length 0; a third of its values hard ones."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    bits = DTYPES[dtype].bits
    value = st.sampled_from(hard_patterns(dtype)) | st.integers(0, (1 << bits) - 1)
    count = math.prod(shape)
    patterns = draw(st.lists(value, min_size=count, max_size=count))
    raw = b"".join(pattern.to_bytes(bits // 8, "little") for pattern in patterns)
    return TensorPayload(dtype, shape, memoryview(bytearray(raw)))


def numbers(payload: TensorPayload) -> list[Any]:
    """The elements as Python numbers, by way of `struct` and not of our tables."""
    raw, size = bytes(payload.data), DTYPES[payload.dtype].itemsize
    if payload.dtype == "bfloat16":
        raw = b"".join(b"\0\0" + raw[place : place + 2] for place in range(0, len(raw), 2))
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    code = {"float16": "e", "float32": "f", "float64": "d", "int8": "b", "uint8": "B",
            "int32": "i", "int64": "q"}[payload.dtype]  # fmt: skip
    return list(struct.unpack(f"<{len(raw) // size}{code}", raw))


def with_one_nan(payload: TensorPayload) -> list[object]:
    """Values and signs of zeros; JSON has one word for all NaNs."""
    return [
        "NaN" if isinstance(n, float) and math.isnan(n) else (n, math.copysign(1, n))
        for n in numbers(payload)
    ]


def from_json(text: bytes) -> TensorPayload:
    fields = json_codec.decode(text, {"input": TensorField()}, max_rank=8, max_list=1)
    payload = fields["input"]
    assert isinstance(payload, TensorPayload)
    return payload


def as_words(values: list[Any]) -> list[Any]:
    """What is not finite as JSON says it."""
    words = {math.inf: "Infinity", -math.inf: "-Infinity"}
    return ["NaN" if n != n else words.get(n, n) for n in values]


def nested(values: list[Any], shape: tuple[int, ...]) -> Any:
    """By hand: rows of rows, a number where there are no axes."""
    if not shape:
        return values[0]
    size = math.prod(shape[1:])
    return [nested(values[n * size : (n + 1) * size], shape[1:]) for n in range(shape[0])]


@EXAMPLES
@given(payloads(), st.sampled_from(["nested", "flat", "base64"]))
def test_json(payload: TensorPayload, form: str) -> None:
    """What is printed says the numbers to Python's parser, and reads back as the same bits."""
    text = b"".join(json_codec.encode({"dtype": payload.dtype, "input": payload}, encoding=form))
    printed = json.loads(text, parse_constant=pytest.fail)["input"]
    shape, values = payload.shape, as_words(numbers(payload))
    is_number = not shape and (form != "base64" or not DTYPES[payload.dtype].is_float)
    if form == "base64" and not is_number:
        assert base64.b64decode(printed["base64"], validate=True) == bytes(payload.data)
        assert (printed["shape"], printed["dtype"]) == (list(shape), payload.dtype)
        assert bytes(from_json(text).data) == bytes(payload.data)
        return
    if is_number:
        flat = {"dtype": payload.dtype, "input": {"shape": [], "data": [printed]}}
        text = json.dumps(flat).encode()
    back = from_json(text)
    if 0 not in shape or form == "flat":
        assert back.shape == shape
    assert with_one_nan(back) == with_one_nan(payload)
    if payload.dtype == "float64" or not DTYPES[payload.dtype].is_float:
        assert as_words(numbers(back)) == values


@EXAMPLES
@given(payloads(), st.integers(0, 9))
def test_safetensors(payload: TensorPayload, spaces: int) -> None:
    """NaNs keep their payloads, whatever the header's length does to the alignment."""
    entry = {
        "dtype": CODES[payload.dtype],
        "shape": payload.shape,
        "data_offsets": [0, payload.data.nbytes],
    }
    header = json.dumps({"input": entry}).encode() + b" " * spaces
    body = bytearray(struct.pack("<Q", len(header)) + header + bytes(payload.data))
    fields = safetensors.decode(body, {"input": TensorField()}, max_rank=8, max_list=1)
    read: Any = fields["input"]
    assert (read.dtype, read.shape, bytes(read.data)) == (*payload[:2], bytes(payload.data))
    assert fields["dtype"] == payload.dtype
    assert np.frombuffer(read.data, DTYPES[read.dtype].storage).flags.aligned
    assert not read.data.readonly
    written = b"".join(safetensors.encode({"output": read, "more.0": payload}))
    (length,) = struct.unpack("<Q", written[:8])
    entries = json.loads(written[8 : 8 + length])
    for name in ("output", "more.0"):
        start, end = entries[name]["data_offsets"]
        assert written[8 + length + start : 8 + length + end] == bytes(payload.data)
        assert (entries[name]["dtype"], entries[name]["shape"]) == (
            CODES[payload.dtype],
            list(payload.shape),
        )
    if payload.dtype != "bfloat16":  # numpy has none
        assert library.load(written)["output"].tobytes() == bytes(payload.data)


@EXAMPLES
@given(st.lists(payloads(), min_size=1, max_size=3), st.booleans(), st.integers(0, 9))
def test_open_inference(tensors: list[TensorPayload], binary: bool, spaces: int) -> None:
    """Blobs bit for bit, in order; numbers by value, in one list or in rows."""
    inputs: list[dict[str, Any]] = []
    for number, payload in enumerate(tensors):
        entry: dict[str, Any] = {
            "name": f"x{number}",
            "shape": payload.shape,
            "datatype": NAMES[payload.dtype],
        }
        if binary:
            entry["parameters"] = {"binary_data_size": payload.data.nbytes}
        else:
            entry["data"] = as_words(numbers(payload))
            if spaces % 2 and payload.shape and 0 not in payload.shape:
                entry["data"] = nested(entry["data"], payload.shape)
        inputs.append(entry)
    message = {"inputs": inputs, "parameters": {"binary_data_output": binary}}
    text = json.dumps(message).encode() + b" " * spaces
    blobs = b"".join(bytes(payload.data) for payload in tensors) if binary else b""
    request = open_inference.decode(
        text + blobs, len(text) if binary else None, max_rank=8, max_tensors=3
    )
    assert [p.shape for p in request.inputs.values()] == [p.shape for p in tensors]
    check_same(list(request.inputs.values()), tensors, binary=binary)
    pieces, length = open_inference.encode("model", request, request.inputs)
    answer = b"".join(pieces)
    outputs = json.loads(answer[:length], parse_constant=pytest.fail)["outputs"]
    assert (length is not None) == binary
    if binary:
        assert answer[length:] == blobs
        sizes = [output["parameters"]["binary_data_size"] for output in outputs]
        assert sizes == [payload.data.nbytes for payload in tensors]
        return
    for payload, output in zip(tensors, outputs, strict=True):
        assert (output["shape"], output["datatype"]) == (
            list(payload.shape),
            NAMES[payload.dtype],
        )
        flat = {"dtype": payload.dtype, "input": {"shape": output["shape"], "data": output["data"]}}
        check_same([from_json(json.dumps(flat).encode())], [payload], binary=False)


def check_same(found: list[TensorPayload], sent: list[TensorPayload], *, binary: bool) -> None:
    for one, other in zip(found, sent, strict=True):
        assert one.dtype == other.dtype
        if binary:
            assert bytes(one.data) == bytes(other.data)
            assert np.frombuffer(one.data, DTYPES[one.dtype].storage).flags.aligned
        else:
            assert with_one_nan(one) == with_one_nan(other)


@EXAMPLES
@given(st.sampled_from(["float32", "float16", "bfloat16"]), st.data())
def test_numbers_beyond_a_dtype_are_refused_and_the_largest_are_not(dtype: str, data: Any) -> None:
    """Half a step above the largest number rounds to infinity; below it, to the largest."""
    exponent, mantissa = FLOAT_BITS[dtype]
    largest = (2 - 2.0**-mantissa) * 2.0 ** (2 ** (exponent - 1) - 1)
    limit = largest + 2.0 ** (2 ** (exponent - 1) - 1 - mantissa) / 2
    number = data.draw(st.floats(largest, limit * 1.0001))
    text = json.dumps({"dtype": dtype, "input": [number]}).encode()
    if number < limit:
        assert numbers(from_json(text)) == [largest]
    else:
        with pytest.raises(InvalidRequest):
            from_json(text)


@example(2**63 - 1, "int64")
@example(-(2**63), "int64")
@example(2**63, "int64")
@EXAMPLES
@given(
    st.integers(-(2**65), 2**65) | st.integers(-300, 300),
    st.sampled_from(["int8", "uint8", "int32", "int64"]),
)
def test_integers_are_exact_or_refused(number: int, dtype: str) -> None:
    bits, signed = DTYPES[dtype].bits, not dtype.startswith("u")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    text = json.dumps({"dtype": dtype, "input": [number]}).encode()
    if low <= number <= high:
        assert numbers(from_json(text)) == [number]
    else:
        with pytest.raises(InvalidRequest):
            from_json(text)
