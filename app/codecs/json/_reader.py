"""JSON document -> plain values and tensor payloads."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
import simdjson

from app.codecs._arrays import Array, as_payload, from_numbers
from app.codecs.json._text import parse, plain_kind
from app.errors import InvalidRequest
from app.schemas.tensors import DTYPES, Shape, TensorPayload, json_kind

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
MAX_PLAIN_VALUES = 256
SHORT_ROW_BYTES = 128
"""Rows shorter than this are compared faster as text than one by one."""
PROXIES = (simdjson.Array, simdjson.Object)
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))


def decode(
    body: bytes | bytearray, tensors: Collection[str], *, max_rank: int
) -> dict[str, object]:
    """Read one JSON object; the fields named in `tensors` become payloads of its `dtype`.

    Raises:
        MalformedBody: not a JSON object in UTF-8.
        InvalidRequest: a tensor that is ragged, too deep, not numeric, or beyond its dtype.

    """
    parser = _idle_parsers.pop() if _idle_parsers else simdjson.Parser()
    fields = _decode(parser, body, tensors, max_rank)
    _idle_parsers.append(parser)
    return fields


# A parser keeps its memory for the next document, which halves the time that large ones take. It
# must not be used again while values of its document live: after an error it is left to them.
_idle_parsers: list[simdjson.Parser] = []


def _decode(
    parser: simdjson.Parser, body: bytes | bytearray, tensors: Collection[str], max_rank: int
) -> dict[str, object]:
    document = parse(parser, body)
    dtype = str(_plain(document.get("dtype", "float32"), "dtype"))
    reader = _TensorReader(dtype if dtype in DTYPES else "float64", max_rank)
    fields: dict[str, object] = {}
    for name in document.keys():
        value = document[name]
        if name in fields:
            raise InvalidRequest.at(name, "duplicate-field", f"{name}: given more than once")
        if not isinstance(value, PROXIES):
            fields[name] = value
        elif name in tensors:
            fields[name] = reader.read(value, name)
        else:
            fields[name] = _plain(value, name)
    if reader.nested and not _rows_are_full(body, document, reader.nested):
        for name, value, shape in reader.nested:
            reader.walk(value, shape, name)
    return fields


def _rows_are_full(
    body: bytes | bytearray, document: Any, nested: list[tuple[str, Any, Shape]]
) -> bool:
    """Whether no nested tensor is ragged, which its flat buffer hides where the count fits.

    False may be a false alarm (a bracket inside a string): it only costs a walk over the rows.
    """
    shapes = {name: shape for name, _, shape in nested}
    expected = _spell_members(document, shapes)
    if sum(math.prod(shape[:-1]) for shape in shapes.values()) * SHORT_ROW_BYTES > len(body):
        return body.translate(None, _NOT_STRUCTURE) == expected
    arrays = np.count_nonzero(np.frombuffer(body, np.uint8) == ord("["))
    return arrays == expected.count(b"[") and all(
        _has_shape(value, shape) for _, value, shape in nested
    )


def _has_shape(value: Any, shape: Shape) -> bool:
    if not isinstance(value, simdjson.Array) or len(value) != shape[0]:
        return False
    if len(shape) == 2:
        width = shape[1]
        return all(isinstance(row, simdjson.Array) and len(row) == width for row in value)
    return len(shape) == 1 or all(_has_shape(row, shape[1:]) for row in value)


def _spell_members(members: Any, shapes: Mapping[str, Shape]) -> bytes:
    """The brackets and commas that the members' text must have if every row is full."""
    return b",".join(
        _spell_array(shapes[name]) if name in shapes else _spell(members[name])
        for name in members.keys()
    )


def _spell_array(shape: Shape) -> bytes:
    row = _spell_array(shape[1:]) if len(shape) > 1 else b""
    return b"[" + (row + b",") * (shape[0] - 1) + row * bool(shape[0]) + b"]"


def _spell(value: object) -> bytes:
    if isinstance(value, simdjson.Object):
        data = value.get("data")
        lengths = {"data": (len(data),)} if isinstance(data, simdjson.Array) else {}
        return _spell_members(value, lengths)
    if isinstance(value, simdjson.Array):
        return b"[" + b",".join(map(_spell, value)) + b"]"
    return b""


def _plain(value: object, name: str) -> Any:
    """An option's value as Python objects, a few hundred at the most."""
    budget = MAX_PLAIN_VALUES

    def convert(item: object) -> object:
        nonlocal budget
        budget -= 1
        if budget < 0:
            detail = f"{name}: expected at most {MAX_PLAIN_VALUES} values; it is no tensor field"
            raise InvalidRequest.at(name, "too-long", detail)
        if isinstance(item, simdjson.Array):
            return [convert(entry) for entry in item]
        if isinstance(item, simdjson.Object):
            return {key: convert(item[key]) for key in item.keys()}
        return item

    return convert(value)


def _is_shape(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(length) is int and length >= 0 for length in value)


def _leaves(value: Any) -> Iterator[float]:
    for item in value:
        if isinstance(item, simdjson.Array):
            yield from _leaves(item)
        else:
            yield NON_FINITE[item] if isinstance(item, str) else item


class _TensorReader:
    """Reads the tensors of one document into payloads of one dtype."""

    def __init__(self, dtype: str, max_rank: int) -> None:
        self._dtype = DTYPES[dtype]
        self._max_rank = max_rank
        self.nested: list[tuple[str, Any, Shape]] = []
        """Name, proxy and shape of the nested tensors whose rows are still to be compared."""

    def read(self, value: Any, name: str) -> TensorPayload:
        """One tensor, as nested arrays or as {"shape", "data"}."""
        if isinstance(value, simdjson.Array):
            shape = self._nested_shape(value, name)
            numbers = self._numbers(value, shape, name)
            if numbers.size != math.prod(shape):
                self.walk(value, shape, name)
            self.nested.append((name, value, shape))
        else:
            shape, data = self._flat_form(value, name)
            name = f"{name}/data"
            numbers = self._numbers(data, (len(data),), name)
            if numbers.size != math.prod(shape):
                raise InvalidRequest.at(
                    name,
                    "shape-mismatch",
                    f"{name}: the shape {list(shape)} needs {math.prod(shape)} numbers; "
                    f"got {numbers.size}",
                )
        elements, misfit = from_numbers(numbers, self._dtype)
        if misfit is not None:
            where = f"{name}/" + "/".join(map(str, np.unravel_index(misfit, shape)))
            detail = f"{where}: the number does not fit {self._dtype.name}"
            raise InvalidRequest.at(where, "out-of-range", detail)
        return as_payload(elements, self._dtype.name, shape)

    def walk(self, value: Any, shape: Shape, pointer: str) -> None:
        """Look at every row and element; raises at the first that does not fit the shape."""
        if not isinstance(value, simdjson.Array) or len(value) != shape[0]:
            came = len(value) if isinstance(value, simdjson.Array) else json_kind(plain_kind(value))
            detail = f"{pointer}: expected a row of {shape[0]}, as in the rows before; got {came}"
            raise InvalidRequest.at(pointer, "ragged", detail)
        for index, item in enumerate(value):
            if len(shape) > 1:
                self.walk(item, shape[1:], f"{pointer}/{index}")
            elif not self._is_number(item):
                where = f"{pointer}/{index}"
                wanted = (
                    'a number, "NaN", "Infinity" or "-Infinity"'
                    if self._dtype.is_float
                    else f"an integer (dtype {self._dtype.name})"
                )
                detail = f"{where}: expected {wanted}; got {json_kind(plain_kind(item))}"
                raise InvalidRequest.at(where, "not-a-number", detail)

    def _is_number(self, item: object) -> bool:
        if self._dtype.is_float and isinstance(item, str):
            return item in NON_FINITE
        wanted = int | float if self._dtype.is_float else int
        return isinstance(item, wanted) and not isinstance(item, bool)

    def _nested_shape(self, value: Any, name: str) -> Shape:
        """The shape that the first entry of each axis shows."""
        shape: list[int] = []
        while isinstance(value, simdjson.Array):
            shape.append(len(value))
            self._check_rank(len(shape), name)
            value = value[0] if shape[-1] else None
        return tuple(shape)

    def _flat_form(self, value: Any, name: str) -> tuple[Shape, Any]:
        members = {key: value[key] for key in value.keys()}
        data = members.get("data")
        shape = _plain(members.get("shape"), name)
        if (
            not members.keys() <= {"shape", "dtype", "data"}
            or not isinstance(data, simdjson.Array)
            or not _is_shape(shape)
        ):
            detail = f'{name}: expected nested arrays or {{"shape": [lengths], "data": [numbers]}}'
            raise InvalidRequest.at(name, "tensor-form", detail)
        if members.get("dtype", self._dtype.name) != self._dtype.name:
            detail = f"{name}: expected the request's dtype, {self._dtype.name}; got another"
            raise InvalidRequest.at(f"{name}/dtype", "dtype-mismatch", detail)
        self._check_rank(len(shape), name)
        return tuple(shape), data

    def _check_rank(self, rank: int, name: str) -> None:
        if rank > self._max_rank:
            detail = f"{name}: expected at most {self._max_rank} axes; got {rank} or more"
            raise InvalidRequest.at(name, "too-deep", detail)

    def _numbers(self, data: Any, shape: Shape, pointer: str) -> Array:
        """All numbers below `data` in one array, float64 or int64."""
        of_type, storage = ("d", "<f8") if self._dtype.is_float else ("i", "<i8")
        try:
            return np.frombuffer(data.as_buffer(of_type=of_type), storage)
        except (TypeError, ValueError):
            self.walk(data, shape, pointer)
        try:
            return np.fromiter(_leaves(data), storage)
        except OverflowError as error:
            detail = f"{pointer}: a number does not fit {self._dtype.name}"
            raise InvalidRequest.at(pointer, "out-of-range", detail) from error
