"""Tensors as the wire knows them, and the one table of dtypes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field as Member
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class DType:
    """One row of the dtype table.

    `storage` is the numpy code of the elements in a payload's buffer, always little-endian;
    bfloat16, which numpy lacks, is stored as its 16 bits.
    """

    name: str
    storage: str
    bits: int
    is_float: bool

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return self.bits // 8

    @property
    def is_half(self) -> bool:
        """A float too short to compute in."""
        return self.is_float and self.bits == 16


DTYPES: Mapping[str, DType] = {
    row.name: row
    for row in (
        DType("float32", "<f4", 32, True),
        DType("float64", "<f8", 64, True),
        DType("float16", "<f2", 16, True),
        DType("bfloat16", "<u2", 16, True),
        DType("int8", "|i1", 8, False),
        DType("uint8", "|u1", 8, False),
        DType("int32", "<i4", 32, False),
        DType("int64", "<i8", 64, False),
    )
}
FLOATS = tuple(row.name for row in DTYPES.values() if row.is_float)
INTEGERS = tuple(row.name for row in DTYPES.values() if not row.is_float)


class TensorPayload(NamedTuple):
    """A tensor outside the compute layer: dtype name, shape, row-major elements."""

    dtype: str
    shape: Shape
    data: memoryview


_NUMBER = [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]
_AXIS = {"type": "array", "items": {"anyOf": [*_NUMBER, {"$ref": "#/components/schemas/Axis"}]}}
TENSOR_FORMAT, ANSWER_FORMAT = "tensor", "answer-tensor"
"""Stand in generated schemas where `api/openapi.py` puts a reference to one of TENSOR_SCHEMAS."""
TENSOR_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "Axis": {
        "title": "Axis",
        "description": "One axis of a tensor: numbers, or arrays of equal length.",
        **_AXIS,
    },
    "Tensor": {
        "title": "Tensor",
        "description": 'Nested arrays of numbers, {"shape", "data"} in row-major order, or '
        '{"shape", "dtype", "base64"}, little-endian and row-major.',
        "oneOf": [
            _AXIS,
            {
                "type": "object",
                "properties": {
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "dtype": {"enum": list(DTYPES)},
                    "data": {"type": "array", "items": {"anyOf": _NUMBER}},
                },
                "required": ["shape", "data"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "dtype": {"enum": list(DTYPES)},
                    "base64": {"type": "string", "contentEncoding": "base64"},
                },
                "required": ["shape", "dtype", "base64"],
                "additionalProperties": False,
            },
        ],
    },
    "AnswerTensor": {
        "title": "AnswerTensor",
        "description": "A tensor in the form that `encoding` selects; unless it is base64, a "
        "tensor without axes is a bare number.",
        "anyOf": [{"$ref": "#/components/schemas/Tensor"}, *_NUMBER],
    },
}


class TensorField(NamedTuple):
    """How a codec reads a request's tensor: in the request's dtype or its own, one or a list."""

    dtype: str | None = None
    many: bool = False


@dataclass(frozen=True, slots=True)
class GroupField:
    """An object with tensors in it, or a list of at most `most` such objects.

    The `dtype` of an object that `sets_dtype` is that of all tensors of the document.
    """

    fields: Mapping[str, "Field"]
    most: int | None = None
    sets_dtype: bool = False


def dtype_holder(fields: Mapping[str, "Field"]) -> str | None:
    """The name of the object that sets the document's dtype, unless the document itself does."""
    return next((n for n, f in fields.items() if isinstance(f, GroupField) and f.sets_dtype), None)


@dataclass(frozen=True, slots=True)
class DocumentsField:
    """A list of at most `most` requests, each read as if it came alone, and refused alone.

    `fields_of` tells a request's tensor fields from its members, of which arrays and objects show
    as empty ones; it may raise a RequestError.
    """

    most: int
    fields_of: Callable[[Mapping[str, object]], Mapping[str, "Field"]]


Field = TensorField | GroupField | DocumentsField


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Teaches pydantic a field that holds a decoded `TensorPayload`, or one reserved word."""

    word: str | None = None
    format: str = TENSOR_FORMAT

    def _accept(self, value: object) -> object:
        if isinstance(value, TensorPayload) or (value is not None and value == self.word):
            return value
        raise PydanticCustomError(
            "tensor-type",
            "expected a tensor, as nested numbers or an object with shape and data{word}; "
            "got {kind}",
            {"word": f', or "{self.word}"' if self.word else "", "kind": json_kind(value)},
        )

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._accept)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        tensor = {"format": self.format}
        return {"anyOf": [tensor, {"const": self.word}]} if self.word else tensor


Tensor = Annotated[TensorPayload, _Decoded()]
AnswerTensor = Annotated[TensorPayload, _Decoded(format=ANSWER_FORMAT)]
Tensors = Annotated[tuple[Tensor, ...], Member(min_length=1)]
TensorOrOnes = Annotated[TensorPayload | Literal["ones"], _Decoded("ones")]
TensorsOrOnes = Tensors | Literal["ones"]


def json_kind(value: object) -> str:
    """The JSON word for a decoded value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case _:
            return "an array"
