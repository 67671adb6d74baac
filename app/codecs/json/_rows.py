"""Detects ragged rows: nested arrays whose lengths differ from the first entry's on that axis."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import simdjson

from app.codecs.json._text import members
from app.errors import escaped
from app.schemas.tensors import Shape

SHORT_ROW_BYTES = 128
"""Rows shorter than this are checked faster as text than one by one."""
Walk = Callable[[Any, Shape, str], None]
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))


class Rows:
    """Finds ragged rows, which a flat buffer hides if the total number of elements fits."""

    def __init__(self) -> None:
        self._nested: dict[str, tuple[Any, Shape, Walk]] = {}

    def add(self, pointer: str, value: Any, shape: Shape, walk: Walk) -> None:
        """Register a nested tensor whose rows are yet to be checked against its shape."""
        self._nested[pointer] = (value, shape, walk)

    def check(self, body: bytes | bytearray, document: Any) -> None:
        """Call `walk` on each tensor to report a ragged row, unless all are surely full."""
        if self._nested and not self._are_full(body, document):
            for pointer, (value, shape, walk) in self._nested.items():
                walk(value, shape, pointer)

    def _are_full(self, body: bytes | bytearray, document: Any) -> bool:
        """Whether all rows are full; False may be a false alarm (a bracket inside a string)."""
        expected = self._spell(document, "")
        rows = sum(math.prod(shape[:-1]) for _, shape, _ in self._nested.values())
        if rows * SHORT_ROW_BYTES > len(body):
            return body.translate(None, _NOT_STRUCTURE) == expected
        arrays = np.count_nonzero(np.frombuffer(body, np.uint8) == ord("["))
        try:
            return arrays == expected.count(b"[") and all(
                _has_shape(value, shape) for value, shape, _ in self._nested.values()
            )
        except TypeError:
            return False

    def _spell(self, value: object, pointer: str) -> bytes:
        """The brackets and commas that the value's text has if every row is full."""
        if pointer in self._nested:
            return _spell_array(self._nested[pointer][1])
        if isinstance(value, simdjson.Object):
            return b",".join(self._spell(item, _join(pointer, key)) for key, item in members(value))
        if isinstance(value, simdjson.Array):
            if pointer.endswith("/data"):
                return _spell_array((len(value),))
            items = (self._spell(item, f"{pointer}/{i}") for i, item in enumerate(value))
            return b"[" + b",".join(items) + b"]"
        return b""


def _join(pointer: str, key: str) -> str:
    return f"{pointer}/{escaped(key)}" if pointer else escaped(key)


def _has_shape(value: Any, shape: Shape) -> bool:
    """Whether every row has the length given by the shape; a number among rows is a TypeError."""
    if len(value) != shape[0]:
        return False
    if len(shape) == 2:
        return set(map(len, value)) <= {shape[1]}
    return len(shape) == 1 or all(_has_shape(row, shape[1:]) for row in value)


def _spell_array(shape: Shape) -> bytes:
    row = _spell_array(shape[1:]) if len(shape) > 1 else b""
    return b"[" + (row + b",") * (shape[0] - 1) + row * bool(shape[0]) + b"]"
