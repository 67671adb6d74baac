"""Decodes one tensor of a JSON document, in any of its three forms, to a payload."""

import math
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
import simdjson

from app.codecs._arrays import Array, as_payload, from_numbers
from app.codecs.json._text import members, plain_kind
from app.errors import InvalidRequest
from app.schemas.tensors import DTYPES, DType, Shape, TensorPayload, json_kind

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
MAX_PLAIN_VALUES = 256


def plain(value: object, name: str) -> Any:
    """Convert an option's value to Python objects, a few hundred at most."""
    if not isinstance(value, simdjson.Array | simdjson.Object):
        return value
    budget = MAX_PLAIN_VALUES

    def convert(item: object) -> object:
        nonlocal budget
        budget -= 1
        if budget < 0:
            detail = f"{name}: expected at most {MAX_PLAIN_VALUES} values; it is not a tensor"
            raise InvalidRequest.at(name, "too-long", detail)
        if isinstance(item, simdjson.Array):
            return [convert(entry) for entry in item]
        if isinstance(item, simdjson.Object):
            return {key: convert(entry) for key, entry in members(item)}
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


class TensorReader:
    """Reads tensors into payloads of one dtype."""

    def __init__(self, dtype: DType, max_rank: int) -> None:
        self._dtype = dtype
        self._max_rank = max_rank

    def read(self, value: Any, name: str) -> TensorPayload:
        """Read a tensor in any of its three forms."""
        if isinstance(value, simdjson.Array):
            shape = self._nested_shape(value, name)
            numbers = self._numbers(value, shape, name)
            if numbers.size != math.prod(shape):
                self.walk(value, shape, name)
            return self._rounded(numbers, shape, name)
        shape, found = self._members(value, name)
        if "base64" in found:
            return self._unpacked(shape, found["base64"], f"{name}/base64")
        return self.flat(shape, found["data"], f"{name}/data")

    def flat(self, shape: Shape, data: Any, name: str) -> TensorPayload:
        """Read an array of numbers, in row-major order of the shape."""
        numbers = self._numbers(data, (len(data),), name)
        if not numbers.size == len(data) == math.prod(shape):
            raise InvalidRequest.at(
                name,
                "shape-mismatch",
                f"{name}: shape {list(shape)} needs a flat list of {math.prod(shape)} numbers; "
                f"got {len(data)} entries",
            )
        return self._rounded(numbers, shape, name)

    def _rounded(self, numbers: Array, shape: Shape, name: str) -> TensorPayload:
        elements, misfit = from_numbers(numbers, self._dtype)
        if misfit is not None:
            where = f"{name}/" + "/".join(map(str, np.unravel_index(misfit, shape)))
            detail = f"{where}: out of range for {self._dtype.name}"
            raise InvalidRequest.at(where, "out-of-range", detail)
        return as_payload(elements, self._dtype.name, shape)

    def walk(self, value: Any, shape: Shape, pointer: str) -> None:
        """Check every row and element; raise at the first that does not fit the shape."""
        if not isinstance(value, simdjson.Array) or len(value) != shape[0]:
            came = len(value) if isinstance(value, simdjson.Array) else json_kind(plain_kind(value))
            detail = f"{pointer}: expected a row of length {shape[0]}, like the first; got {came}"
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
        """The shape, judged by the first entry of each axis."""
        shape: list[int] = []
        while isinstance(value, simdjson.Array):
            shape.append(len(value))
            self._check_rank(len(shape), name)
            value = value[0] if shape[-1] else None
        return tuple(shape)

    def _members(self, value: Any, name: str) -> tuple[Shape, dict[str, Any]]:
        """The shape and members of {"shape", "data"} or {"shape", "dtype", "base64"}."""
        found = dict(members(value))
        shape = plain(found.get("shape"), name)
        flat = isinstance(found.get("data"), simdjson.Array) and "base64" not in found
        packed = isinstance(found.get("base64"), str) and "dtype" in found
        if (
            not (flat or packed)
            or len(found) < len(value)
            or not found.keys() <= {"shape", "dtype", "data" if flat else "base64"}
            or not _is_shape(shape)
        ):
            detail = (
                f'{name}: expected nested arrays, {{"shape": [lengths], "data": [numbers]}} or '
                '{"shape": [lengths], "dtype": name, "base64": text}'
            )
            raise InvalidRequest.at(name, "tensor-form", detail)
        if (dtype := found.get("dtype", self._dtype.name)) != self._dtype.name:
            came = dtype if isinstance(dtype, str) and dtype in DTYPES else "another"
            detail = f"{name}: expected dtype {self._dtype.name}; got {came}"
            raise InvalidRequest.at(f"{name}/dtype", "dtype-mismatch", detail)
        self._check_rank(len(shape), name)
        return tuple(shape), found

    def _unpacked(self, shape: Shape, text: str, name: str) -> TensorPayload:
        """Decode the elements from base64 text."""
        try:
            data = bytearray(b64decode(text, validate=True))
        except ValueError as error:
            detail = f"{name}: expected padded base64 without line breaks"
            raise InvalidRequest.at(name, "base64", detail) from error
        size = math.prod(shape) * self._dtype.itemsize
        if len(data) != size:
            detail = f"{name}: shape {list(shape)} needs {size} bytes; got {len(data)}"
            raise InvalidRequest.at(name, "shape-mismatch", detail)
        return TensorPayload(self._dtype.name, shape, memoryview(data))

    def _check_rank(self, rank: int, name: str) -> None:
        if rank > self._max_rank:
            detail = f"{name}: expected at most {self._max_rank} axes; got {rank} or more"
            raise InvalidRequest.at(name, "too-deep", detail)

    def _numbers(self, data: Any, shape: Shape, pointer: str) -> Array:
        """Flatten all numbers in `data` into one array of float64 or int64."""
        of_type, storage = ("d", "<f8") if self._dtype.is_float else ("i", "<i8")
        try:
            return np.frombuffer(data.as_buffer(of_type=of_type), storage)
        except (TypeError, ValueError):
            self.walk(data, shape, pointer)
        try:
            return np.fromiter(_leaves(data), storage)
        except OverflowError as error:
            detail = f"{pointer}: a number is out of range for {self._dtype.name}"
            raise InvalidRequest.at(pointer, "out-of-range", detail) from error
