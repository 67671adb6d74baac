"""Decodes small documents by way of Python objects, which for so few numbers takes a third of the
time of simdjson's proxies.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import orjson

from app.codecs._arrays import as_payload, from_numbers
from app.codecs.json._text import MAX_MEMBERS
from app.schemas.tensors import (
    DTYPES,
    DType,
    Field,
    GroupField,
    TensorField,
    TensorPayload,
    dtype_holder,
)

MAX_OPTION_LENGTH = 16
NUMBERS, INTEGERS = {int, float}, {int}


class _Unusual(Exception):
    """The document has something that this reader leaves to the other: most often a mistake."""


def decode_small(
    body: bytes | bytearray, tensors: Mapping[str, Field], *, max_rank: int, max_list: int
) -> dict[str, Any] | None:
    """Decode a valid document that is written as most are; None for any other."""
    if b"\\" in body:
        return None
    try:
        document = orjson.loads(body)
        holder = dtype_holder(tensors)
        source = document if holder is None else document[holder]
        dtype = DTYPES[source.get("dtype", "float32")]
        reader = _Reader(dtype, max_rank, max_list)
        fields = reader.members_of(document, tensors)
    except (_Unusual, ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return None
    # Every member has a colon. If there are more, one is in a string, or a name occurs twice.
    return fields if body.count(b":") == reader.members else None


class _Reader:
    """Reads one document, and counts the members of its objects."""

    def __init__(self, dtype: DType, max_rank: int, max_list: int) -> None:
        self.members = 0
        self._dtype = dtype
        self._max_rank = max_rank
        self._max_list = max_list

    def members_of(self, members: Any, fields: Mapping[str, Field]) -> dict[str, Any]:
        """The members of an object, tensors among them as payloads."""
        if not isinstance(members, dict) or len(members) > MAX_MEMBERS:
            raise _Unusual
        self.members += len(members)
        return {
            name: self._field(value, fields.get(name)) if isinstance(value, list | dict) else value
            for name, value in members.items()
        }

    def _field(self, value: Any, field: Field | None) -> object:
        match field:
            case None:
                return self._option(value)
            case TensorField(many=False):
                return self._tensor(value, field)
            case TensorField() if isinstance(value, list) and len(value) <= self._max_list:
                return tuple(
                    self._tensor(item, field) if isinstance(item, list | dict) else item
                    for item in value
                )
            case GroupField(most=None) if isinstance(value, dict):
                return self.members_of(value, field.fields)
            case GroupField(most=int(most)) if isinstance(value, list) and len(value) <= most:
                return [self.members_of(item, field.fields) for item in value]
        raise _Unusual

    def _option(self, value: Any) -> object:
        """Leave the value as it is, if it is a short list."""
        if not isinstance(value, list) or len(value) > MAX_OPTION_LENGTH:
            raise _Unusual
        for item in value:
            if isinstance(item, list | dict):
                self._option(item)
        return value

    def _tensor(self, value: Any, field: TensorField) -> TensorPayload:
        dtype = DTYPES[field.dtype] if field.dtype else self._dtype
        shape, numbers = _flattened(value)
        if len(shape) > self._max_rank or not set(map(type, numbers)) <= (
            NUMBERS if dtype.is_float else INTEGERS
        ):
            raise _Unusual
        wide = np.array(numbers, "<f8" if dtype.is_float else "<i8")
        elements, misfit = from_numbers(wide, dtype)
        if misfit is not None:
            raise _Unusual
        return as_payload(elements, dtype.name, shape)


def _flattened(value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and their numbers in order."""
    shape, items = [], [value]
    while items and type(items[0]) is list:
        lengths = set(map(len, items))
        if len(lengths) > 1 or set(map(type, items)) != {list}:
            raise _Unusual
        shape.append(lengths.pop())
        items = list(chain.from_iterable(items))
    return tuple(shape), items
