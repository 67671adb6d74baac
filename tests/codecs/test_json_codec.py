"""The JSON codec: round trips of every dtype, and what it refuses."""

import json
import math
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from app.codecs import json as codec
from app.codecs._arrays import as_array, round_to_half, shortest_halves, widen
from app.errors import InvalidRequest, LaminaError, MalformedBody
from app.main import create_app
from app.schemas.tensors import DTYPES, FLOATS, INTEGERS, TensorField, TensorPayload
from app.settings import Settings

shapes = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)


def payload(dtype: str, shape: tuple[int, ...], raw: bytes) -> TensorPayload:
    elements: Any = np.frombuffer(raw, DTYPES[dtype].storage)
    return TensorPayload(dtype, shape, memoryview(elements))


def printed(answer: dict[str, object], encoding: str = "nested") -> bytes:
    return b"".join(codec.encode(answer, encoding=encoding))


def read(body: bytes) -> dict[str, object]:
    fields = {
        "input": TensorField(),
        "indices": TensorField(dtype="int64"),
        "inputs": TensorField(many=True),
    }
    return codec.decode(body, fields, max_rank=8, max_list=3)


def decode(text: bytes, dtype: str = "float32") -> TensorPayload:
    body = b'{"dtype": "%s", "input": %s}' % (dtype.encode(), text)
    value = read(body)["input"]
    assert isinstance(value, TensorPayload)
    return value


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_round_trip_is_bit_exact(data: Any) -> None:
    dtype = data.draw(st.sampled_from(FLOATS + INTEGERS))
    shape = data.draw(shapes)
    encoding = data.draw(st.sampled_from(["nested", "flat", "base64"]))
    size = math.prod(shape) * DTYPES[dtype].itemsize
    before = payload(dtype, shape, data.draw(st.binary(min_size=size, max_size=size)))
    text = printed({"dtype": dtype, "input": before}, encoding=encoding)
    json.loads(text, parse_constant=pytest.fail)
    after = read(text)["input"]
    assert isinstance(after, TensorPayload)
    if 0 in shape and encoding == "nested":
        assert math.prod(after.shape) == 0
        return
    assert after.shape == shape
    old, new = _canonical(before), _canonical(after)
    assert old == new


def _canonical(payload: TensorPayload) -> bytes:
    """The bytes, with one pattern for every NaN: JSON has one word for them."""
    array = as_array(payload).copy()
    if payload.dtype == "bfloat16":
        array[np.isnan(widen(array, "bfloat16"))] = 0x7FC0
    elif array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return array.tobytes()


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([*FLOATS]))
def test_numbers_are_rounded_once_ties_to_even(number: float, dtype: str) -> None:
    try:
        bits = as_array(decode(repr(number).encode().join([b"[", b"]"]), dtype)).tobytes()
    except InvalidRequest as error:
        assert error.errors[0].code == "out-of-range"
        return
    if dtype == "bfloat16":
        assert bits == struct.pack("<H", nearest_bfloat16(number))
    else:
        assert bits == np.array([number], DTYPES[dtype].storage).tobytes()


def nearest_bfloat16(number: float) -> int:
    """By exact comparison with both neighbours, in fractions."""
    from fractions import Fraction

    exact, table = abs(Fraction(number)), 0x7F80
    low, high = 0, table
    while high - low > 1:
        middle = (low + high) // 2
        value = struct.unpack("<f", struct.pack("<I", middle << 16))[0]
        low, high = (middle, high) if value <= exact else (low, middle)
    below = Fraction(struct.unpack("<f", struct.pack("<I", low << 16))[0])
    above = (
        Fraction(2) ** 128
        if high == table
        else Fraction(struct.unpack("<f", struct.pack("<I", high << 16))[0])
    )
    up = exact - below > above - exact or (exact - below == above - exact and low % 2 == 1)
    return (high if up else low) | (0x8000 if math.copysign(1, number) < 0 else 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_prints_its_shortest_text(dtype: str) -> None:
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    values = bits.view(getattr(torch, dtype)).double()
    finite = values.isfinite()
    kept = bits[finite].numpy()
    text = printed({"x": payload(dtype, kept.shape, kept.tobytes())})
    decimals = json.loads(text, parse_float=str)["x"]
    assert np.array_equal(round_to_half(np.array([float(d) for d in decimals]), dtype), kept)
    for text, pattern, value in zip(decimals, kept, values[finite].tolist(), strict=True):
        digits = len(Decimal(text).normalize().as_tuple().digits)
        if digits > 1:
            shorter = np.array([float(f"{value:.{digits - 2}e}")])
            assert round_to_half(shorter, dtype)[0] != pattern, "one digit less would do"


@pytest.mark.parametrize(
    ("text", "pointer", "code"),
    [
        (b"[[1, 2], [3]]", "#/input/1", "ragged"),
        (b"[[1, 2, 3], [4], [5, 6]]", "#/input/1", "ragged"),
        (b"[[1], [2, 3], []]", "#/input/1", "ragged"),
        (b"[1, [2]]", "#/input/1", "not-a-number"),
        (b"[[1], 2]", "#/input/1", "ragged"),
        (b"[1, true]", "#/input/1", "not-a-number"),
        (b"[1, null]", "#/input/1", "not-a-number"),
        (b'[1, "3"]', "#/input/1", "not-a-number"),
        (b'[1, "nan"]', "#/input/1", "not-a-number"),
        (b"[1e999]", "#/input/0", "out-of-range"),
        (b"[0, 1e300]", "#/input/1", "out-of-range"),
        (b"[[[[[[[[[1]]]]]]]]]", "#/input", "too-deep"),
        (b'{"shape": [2], "data": [1]}', "#/input/data", "shape-mismatch"),
        (b'{"shape": [2, 2], "data": [[1], [2, 3, 4]]}', "#/input/data", "shape-mismatch"),
        (b'{"shape": [2], "data": [3, [4]]}', "#/input/data/1", "not-a-number"),
        (b'{"shape": [2], "data": [[], [3, 4]]}', "#/input/data/0", "not-a-number"),
        (b'{"shape": [-1], "data": []}', "#/input", "tensor-form"),
        (b'{"shape": [4294967296, 4294967296], "data": []}', "#/input/data", "shape-mismatch"),
        (b'{"shape": [1], "data": [[1]], "more": 1}', "#/input", "tensor-form"),
        (b'{"shape": [2], "shape": [1], "data": [1]}', "#/input", "tensor-form"),
    ],
)
def test_refused_tensors(text: bytes, pointer: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(text)
    assert (caught.value.errors[0].pointer, caught.value.errors[0].code) == (pointer, code)


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"[]", b"3", b"{", b'{"input": [1,]}', b'{"input": [NaN]}', b"\xff{}",
     b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"[" * 100_000, b'{"a":' * 5000, b'{"a": 01}',
     b'{"input": [' + b"9" * 5000 + b"." + b"]}", '{"a": 1}'.encode("utf-16")],
)  # fmt: skip
def test_refused_bodies(body: bytes) -> None:
    with pytest.raises(LaminaError) as caught:
        read(body)
    assert isinstance(caught.value, MalformedBody | InvalidRequest)
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize(
    "body",
    [b'{"a\\u0000b": 1}', b'{"a": 1, "a\\u0000": 2}', b'{"a": {"b": [{"\\u0000": 1}]}}',
     b'{"input": {"shape\\u0000": [1]}}'],
)  # fmt: skip
def test_names_with_a_nul_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="NUL"):
        read(body)


def test_objects_of_many_fields_are_refused_at_once() -> None:
    """simdjson finds a field by looking at those before it: a million would take an hour."""
    many = b"{%s}" % b",".join(b'"%d": 0' % number for number in range(1_000_000))
    for text in (b"%s", b'{"k": %s}', b'{"input": %s}'):
        with pytest.raises(InvalidRequest, match="at most 256 fields"):
            read(text % many)


def test_names_may_be_written_with_escapes() -> None:
    fields = read(b'{"in\\u0070ut": [1, 2], "\\u00e5\\ud83d\\ude00": {"\\n": 1}}')
    assert as_array(fields["input"]).tolist() == [1, 2]  # type: ignore[arg-type]
    assert fields["å😀"] == {"\n": 1}


def test_a_tensor_may_have_a_dtype_of_its_own() -> None:
    fields = read(b'{"indices": [[0, 9007199254740993]], "input": [[0.5, 1]], "k": "[["}')
    assert as_array(fields["indices"]).tolist() == [[0, 9007199254740993]]  # type: ignore[arg-type]
    assert as_array(fields["input"]).tolist() == [[0.5, 1]]  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as caught:
        read(b'{"indices": [0.5]}')
    assert caught.value.errors[0].pointer == "#/indices/0"


def test_a_list_of_tensors_is_read_one_by_one() -> None:
    text = b'{"inputs": [[[1, 2]], [[3, 4], [5, 6]], {"shape": [1], "data": [7]}]}'
    inputs: Any = read(text)["inputs"]
    assert [payload.shape for payload in inputs] == [(1, 2), (2, 2), (1,)]
    assert as_array(inputs[1]).tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("text", "pointer", "code"),
    [
        (b"[[[1, 2]], [[3, 4], [5]]]", "#/inputs/1/1", "ragged"),
        (b"[[1], [2], [3], [4]]", "#/inputs", "too-long"),
        (b"[[1], [null]]", "#/inputs/1/0", "not-a-number"),
        (b'{"shape": [1], "data": [7]}', "#/inputs", "tensor-form"),
    ],
)
def test_refused_lists(text: bytes, pointer: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(b'{"inputs": %s}' % text)
    assert (caught.value.errors[0].pointer, caught.value.errors[0].code) == (pointer, code)


@pytest.mark.parametrize("number", [2**64 - 1, 2**64, 10**20 - 1, 10**20, -(2**63) - 1, 7**99])
def test_long_integers_are_numbers_for_floats(number: int) -> None:
    numbers = decode(b"[%d, %d]" % (number, -number), "float64")
    assert as_array(numbers).tolist() == [float(number), -float(number)]


def test_integers_are_exact_or_refused() -> None:
    assert as_array(decode(b"[9007199254740993]", "int64")).tolist() == [9007199254740993]
    for text, dtype in ((b"[128]", "int8"), (b"[-1]", "uint8"), (b"[1.0]", "int32")):
        with pytest.raises(InvalidRequest):
            decode(text, dtype)


def test_long_integers_in_strings_are_text() -> None:
    long = "100000000000000000000"
    body = {
        "dtype": "float64",
        "input": [int(long)],
        f"[{long}, \\": f"[{long}]",
        "k": [f'"{long}"', f": {long} "],
    }
    fields = read(json.dumps(body).encode())
    assert fields.keys() == body.keys()
    assert (fields[f"[{long}, \\"], fields["k"]) == (f"[{long}]", body["k"])
    assert as_array(fields["input"]).tolist() == [1e20]  # type: ignore[arg-type]


def test_unclosed_strings_are_passed_once() -> None:
    """A search from each quote on would take hours."""
    with pytest.raises(MalformedBody):
        read(b'{"a": "' + b'\\"' * 2_000_000 + b"[100000000000000000000]")


WIDE = b",".join([b"0.123456789012345"] * 12)


@pytest.mark.parametrize(
    ("rows", "pointer", "code"),
    [
        ([WIDE, WIDE + b", 1"], "#/input/1", "ragged"),
        ([WIDE, WIDE + b", 1", WIDE[:-18]], "#/input/1", "ragged"),
        ([WIDE, b"[1]," + WIDE[18:]], "#/input/1/0", "not-a-number"),
        ([WIDE, b"true," + WIDE[18:]], "#/input/1/0", "not-a-number"),
    ],
)
def test_wide_rows_are_compared_one_by_one(rows: list[bytes], pointer: str, code: str) -> None:
    text = b"[[" + b"],[".join(rows) + b"]]"
    with pytest.raises(InvalidRequest) as caught:
        decode(text)
    assert (caught.value.errors[0].pointer, caught.value.errors[0].code) == (pointer, code)


@settings(max_examples=400, deadline=None)
@given(
    st.recursive(
        st.just("1"), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=12
    ).filter(lambda tree: isinstance(tree, list)),
    st.booleans(),
)
def test_ragged_trees_are_refused_and_full_ones_read(tree: Any, wide: bool) -> None:
    text = json.dumps(tree).replace('"1"', "1" + " " * 200 * wide)
    shape: tuple[int, ...] | None
    try:
        shape = np.array(json.loads(text), dtype=float).shape
    except ValueError:
        shape = None
    try:
        assert decode(text.encode()).shape == shape
    except InvalidRequest:
        assert shape is None or len(shape) > 8


def test_brackets_in_strings_do_not_confuse_the_row_check() -> None:
    body = b'{"input": [[1, 2], [3, 4]], "note": "[,", "k": {"a": [[1], [2]]}}'
    fields = read(body)
    assert as_array(fields["input"]).tolist() == [[1, 2], [3, 4]]  # type: ignore[arg-type]


def test_large_arrays_are_printed_in_pieces_and_stay_whole() -> None:
    rows = np.random.default_rng(0).standard_normal((70_000, 3), "f4")
    rows[1, 2], rows[69_999, 0] = np.nan, -np.inf
    text = printed({"input": payload("float32", rows.shape, rows.tobytes())})
    after = decode(json.dumps(json.loads(text)["input"]).encode())
    assert np.array_equal(as_array(after), rows, equal_nan=True)


def test_threads_may_read_at_once() -> None:
    """The parsers that are kept for the next document are handed out one by one."""
    body = b'{"input": [%s]}' % b",".join([b"1.5"] * 2000)
    with ThreadPoolExecutor(8) as pool:
        shapes = pool.map(lambda _: read(body)["input"].shape, range(800))  # type: ignore[attr-defined]
    assert set(shapes) == {(2000,)}


def test_malformed_text_of_many_strings_takes_little_memory() -> None:
    body = b'{"input":[' + b'"",' * 300_000
    tracemalloc.start()
    with pytest.raises(MalformedBody):
        codec.decode(body, {}, max_rank=8, max_list=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(body)


@pytest.mark.anyio
async def test_the_tables_of_halves_are_built_before_the_server_listens() -> None:
    """They take 0.15 s, in which no other request is answered."""
    built: list[int] = []
    shortest_halves.cache_clear()

    async def receive() -> Message:
        return {"type": f"lifespan.{'shutdown' if built else 'startup'}"}

    async def send(message: Message) -> None:
        built.append(shortest_halves.cache_info().currsize)

    await create_app(Settings())({"type": "lifespan", "state": {}}, receive, send)
    assert built[0] == 2
