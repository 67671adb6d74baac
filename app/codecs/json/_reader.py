"""JSON document -> plain values and tensor payloads."""

import threading
from collections.abc import Mapping
from typing import Any

import simdjson

from app.codecs.json._rows import Rows
from app.codecs.json._tensors import TensorReader, plain
from app.codecs.json._text import members, parse
from app.errors import InvalidRequest
from app.schemas.tensors import DTYPES, TensorField, TensorPayload

PROXIES = (simdjson.Array, simdjson.Object)


def decode(
    body: bytes | bytearray, tensors: Mapping[str, TensorField], *, max_rank: int, max_list: int
) -> dict[str, object]:
    """Read one JSON object; the fields named in `tensors` become payloads.

    Raises:
        MalformedBody: not a JSON object in UTF-8.
        InvalidRequest: a tensor that is ragged, too deep, not numeric, or beyond its dtype; a
            list of more than `max_list` tensors.

    """
    parser = _own.__dict__.pop("parser", None) or simdjson.Parser()
    fields = _decode(parser, body, tensors, max_rank, max_list)
    _own.parser = parser
    return fields


# A parser keeps its memory for the next document, which halves the time that large ones take: each
# thread has its own, so that one process keeps one large one. It must not be used again while
# values of its document live: after an error it is left to them.
_own = threading.local()


def _decode(
    parser: simdjson.Parser,
    body: bytes | bytearray,
    tensors: Mapping[str, TensorField],
    max_rank: int,
    max_list: int,
) -> dict[str, object]:
    document = parse(parser, body)
    dtype = str(plain(document.get("dtype", "float32"), "dtype"))
    requested = DTYPES.get(dtype, DTYPES["float64"])
    rows = Rows()

    def read(value: Any, pointer: str, field: TensorField) -> TensorPayload:
        reader = TensorReader(DTYPES[field.dtype] if field.dtype else requested, max_rank)
        payload = reader.read(value, pointer)
        if isinstance(value, simdjson.Array):
            rows.add(pointer, value, payload.shape, reader.walk)
        elif isinstance(data := value.get("data"), simdjson.Array):
            rows.add(f"{pointer}/data", data, (len(data),), reader.walk)
        return payload

    fields: dict[str, object] = {}
    for name, value in members(document):
        if name in fields:
            raise InvalidRequest.at(name, "duplicate-field", f"{name}: given more than once")
        field = tensors.get(name)
        if not isinstance(value, PROXIES):
            fields[name] = value
        elif field is None:
            fields[name] = plain(value, name)
        elif field.many and isinstance(value, simdjson.Array):
            if len(value) > max_list:
                detail = f"{name}: expected at most {max_list} tensors; got {len(value)}"
                raise InvalidRequest.at(name, "too-long", detail)
            fields[name] = tuple(
                read(item, f"{name}/{index}", field) if isinstance(item, PROXIES) else item
                for index, item in enumerate(value)
            )
        elif field.many:
            detail = f"{name}: expected a list of tensors; got an object"
            raise InvalidRequest.at(name, "tensor-form", detail)
        else:
            fields[name] = read(value, name, field)
    rows.check(body, document)
    return fields
