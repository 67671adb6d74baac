"""Decodes a JSON document to plain values and tensor payloads."""

import threading
from collections.abc import Mapping
from typing import Any

import simdjson

from app.codecs.json._rows import Rows
from app.codecs.json._small import decode_small
from app.codecs.json._tensors import TensorReader, plain
from app.codecs.json._text import members, parse, plain_kind
from app.errors import InvalidRequest, RequestError, escaped
from app.schemas.tensors import (
    DTYPES,
    DocumentsField,
    Field,
    GroupField,
    TensorField,
    TensorPayload,
    dtype_holder,
    json_kind,
)

SMALL_BYTES = 4096
PROXIES = (simdjson.Array, simdjson.Object)
Fields = Mapping[str, Field]


def decode(
    body: bytes | bytearray, tensors: Fields, *, max_rank: int, max_list: int
) -> dict[str, object]:
    """Decode one JSON object; the fields named in `tensors` become payloads, at any depth.

    Raises:
        MalformedBody: not a JSON object in UTF-8.
        InvalidRequest: a tensor that is ragged, too deep, not numeric, or beyond its dtype; a
            list of more than `max_list` tensors.

    """
    if len(body) <= SMALL_BYTES:
        fields = decode_small(body, tensors, max_rank=max_rank, max_list=max_list)
        if fields is not None:
            return fields
    parser = _own.__dict__.pop("parser", None) or simdjson.Parser()
    fields = _Reader(max_rank, max_list).document(parse(parser, body), body, tensors)
    _own.parser = parser
    return fields


# A parser keeps its memory for the next document, which halves the time for large documents. Each
# thread has its own parser, so that a process keeps only one large one. A parser must not be reused
# while values of its document are alive, so it is abandoned to them after an error.
_own = threading.local()


class _Reader:
    """Reads one document, tracking the path so that errors can point to it."""

    def __init__(self, max_rank: int, max_list: int) -> None:
        self._max_rank = max_rank
        self._max_list = max_list
        self._rows = Rows()

    def document(self, document: Any, body: bytes | bytearray, tensors: Fields) -> dict[str, Any]:
        holder = dtype_holder(tensors)
        source = document if holder is None else document.get(holder)
        told = source.get("dtype", "float32") if isinstance(source, simdjson.Object) else "float32"
        dtype = str(plain(told, "dtype"))
        self._dtype = DTYPES.get(dtype, DTYPES["float64"])
        fields = self._object(document, tensors, "")
        self._rows.check(body, document)
        return fields

    def _object(self, value: Any, tensors: Fields, path: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, item in members(value):
            pointer = f"{path}{escaped(name)}"
            if name in fields:
                raise InvalidRequest.at(pointer, "duplicate-field", f"{pointer}: duplicate field")
            fields[name] = (
                self._field(item, tensors.get(name), pointer) if isinstance(item, PROXIES) else item
            )
        return fields

    def _field(self, value: Any, field: Field | None, pointer: str) -> object:
        match field:
            case None:
                return plain(value, pointer)
            case TensorField(many=False):
                return self._tensor(value, field, pointer)
            case TensorField():
                items = self._listed(value, self._max_list, "tensors", pointer)
                return tuple(
                    self._tensor(item, field, f"{pointer}/{index}")
                    if isinstance(item, PROXIES)
                    else item
                    for index, item in enumerate(items)
                )
            case GroupField(most=None):
                return self._group(value, field, pointer)
            case GroupField():
                items = self._listed(value, field.most or 0, "objects", pointer)
                return [
                    self._group(item, field, f"{pointer}/{index}")
                    for index, item in enumerate(items)
                ]
            case DocumentsField():
                items = self._listed(value, field.most, "requests", pointer)
                return tuple(self._alone(item, field) for item in items)

    @staticmethod
    def _listed(value: Any, most: int, what: str, pointer: str) -> Any:
        """Return the value if it is a list of at most `most` entries.

        Raises:
            InvalidRequest: not a list, or too many entries.

        """
        if not isinstance(value, simdjson.Array):
            detail = f"{pointer}: expected a list of {what}; got an object"
            raise InvalidRequest.at(pointer, "tensor-form", detail)
        if len(value) > most:
            detail = f"{pointer}: expected at most {most} {what}; got {len(value)}"
            raise InvalidRequest.at(pointer, "too-long", detail)
        return value

    def _group(self, value: Any, field: GroupField, pointer: str) -> object:
        if not isinstance(value, simdjson.Object):
            return plain(value, pointer)
        return self._object(value, field.fields, f"{pointer}/")

    def _tensor(self, value: Any, field: TensorField, pointer: str) -> TensorPayload:
        dtype = DTYPES[field.dtype] if field.dtype else self._dtype
        reader = TensorReader(dtype, self._max_rank)
        payload = reader.read(value, pointer)
        if isinstance(value, simdjson.Array):
            self._rows.add(pointer, value, payload.shape, reader.walk)
        elif isinstance(data := value.get("data"), simdjson.Array):
            self._rows.add(f"{pointer}/data", data, (len(data),), reader.walk)
        return payload

    def _alone(self, value: object, field: DocumentsField) -> dict[str, object] | RequestError:
        """Decode one request of a batch, or return the error that refuses it."""
        try:
            if not isinstance(value, simdjson.Object):
                raise InvalidRequest(f"expected an object; got {json_kind(plain_kind(value))}")
            shown = {name: plain_kind(item) for name, item in members(value)}
            return decode(
                value.mini,  # type: ignore[arg-type]  # bytes, whatever its stub says
                field.fields_of(shown),
                max_rank=self._max_rank,
                max_list=self._max_list,
            )
        except RequestError as error:
            # Its traceback would keep this document alive, whose parser the next one needs.
            return error.with_traceback(None)
