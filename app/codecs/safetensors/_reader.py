"""Decodes a safetensors file to plain values and payloads that view the file's own bytes."""

import json
import math
from collections.abc import Mapping
from typing import Any

from app.codecs import json as json_codec
from app.codecs.named import add_tensors
from app.codecs.safetensors._dtypes import DTYPE_OF, FOREIGN
from app.errors import InvalidRequest, MalformedBody
from app.schemas.tensors import DTYPES, Field, GroupField, TensorPayload

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 64 * 1024
MAX_EXTENT = 2**31 - 1
REQUEST = "request"


def decode(
    body: bytes | bytearray, tensors: Mapping[str, Field], *, max_rank: int, max_list: int
) -> dict[str, object]:
    """Decode one file; its tensors become payloads, and the metadata's `request` the other fields.

    `dtype`, if the request omits it, is taken from the layer's first tensor without a dtype of its
    own.

    Raises:
        MalformedBody: the framing, the header, or the offsets are invalid.
        InvalidRequest: a tensor with another dtype or too many axes, or too many tensors.

    """
    header, data = _split(body)
    fields = _request(header.pop("__metadata__", {}), tensors, max_rank)
    payloads = _payloads(header, data, max_rank, _most(tensors) + 2 * max_list)
    add_tensors(fields, payloads, tensors, max_list)
    return fields


def _split(body: bytes | bytearray) -> tuple[dict[str, Any], memoryview]:
    """Split a file into its header and the bytes after it."""
    length = int.from_bytes(body[:LENGTH_BYTES], "little")
    if len(body) < LENGTH_BYTES or length > len(body) - LENGTH_BYTES:
        raise _broken("its header is longer than the file")
    if length > MAX_HEADER_BYTES:
        raise _broken(f"expected a header of at most {MAX_HEADER_BYTES} bytes; got {length}")
    start = LENGTH_BYTES + length
    if body[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":  # the format allows no leading space
        raise _broken("its header does not begin with {")
    try:
        header: dict[str, Any] = json.loads(
            body[LENGTH_BYTES:start].decode(), object_pairs_hook=_without_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise _broken("its header is not JSON in UTF-8") from error
    # Torch needs writable memory, and numbers aligned to their size.
    aligned = isinstance(body, bytearray) and start % 8 == 0
    return header, memoryview(body)[start:] if aligned else memoryview(
        bytearray(memoryview(body)[start:])
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("duplicate name")
    return members


def _most(tensors: Mapping[str, Field]) -> int:
    """How many tensors the fields can have, with one in each list of tensors."""
    return sum(
        (field.most or 1) * _most(field.fields) if isinstance(field, GroupField) else 1
        for field in tensors.values()
    )


def _groups(tensors: Mapping[str, Field]) -> dict[str, Field]:
    """The groups among the fields, whose tensors are in the file and not in the metadata."""
    return {
        name: GroupField(_groups(field.fields), field.most)
        for name, field in tensors.items()
        if isinstance(field, GroupField)
    }


def _request(metadata: Any, tensors: Mapping[str, Field], max_rank: int) -> dict[str, object]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken("its __metadata__ is not an object of strings")
    text = metadata.get(REQUEST, "{}")
    return json_codec.decode(
        text.encode("utf-8", "surrogatepass"), _groups(tensors), max_rank=max_rank, max_list=0
    )


def _payloads(
    header: dict[str, Any], data: memoryview, max_rank: int, most: int
) -> dict[str, TensorPayload]:
    """The tensors by name; together they must cover the data without gaps."""
    if len(header) > most:
        raise _broken(f"expected at most {most} tensors; got {len(header)}")
    payloads, ends = {}, []
    for name, entry in header.items():
        dtype, shape, (start, end) = _entry(entry)
        if len(shape) > max_rank:
            detail = f"{name[:64]}: expected at most {max_rank} axes; got {len(shape)}"
            raise InvalidRequest.at(name[:64], "too-deep", detail)
        if dtype not in DTYPE_OF:
            came = dtype if dtype in FOREIGN else "another"
            detail = f"{name[:64]}: expected one of {', '.join(DTYPE_OF)}; got {came}"
            raise InvalidRequest.at(name[:64], "dtype-mismatch", detail)
        size = math.prod(shape) * DTYPES[DTYPE_OF[dtype]].itemsize
        if not 0 <= start <= end <= len(data) or end - start != size:
            raise _broken(f"the offsets of a tensor do not match its size, {size} bytes")
        payloads[name] = TensorPayload(DTYPE_OF[dtype], shape, data[start:end])
        ends.append((start, end))
    covered = 0
    for start, end in sorted(ends):
        if start != covered:
            raise _broken("its tensors overlap or leave gaps")
        covered = end
    if covered != len(data):
        raise _broken("bytes are left over after its tensors")
    return payloads


def _entry(entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Read a tensor's dtype, shape, and offsets, which must be all that its entry has."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end]} if (
            len(entry) == 3
            and all(type(n) is int and 0 <= n <= MAX_EXTENT for n in shape)
            and type(start) is type(end) is int
        ):
            return dtype, tuple(shape), (start, end)
    raise _broken(
        "expected dtype, shape and data_offsets for each tensor, with axes below 2147483648"
    )


def _broken(what: str) -> MalformedBody:
    return MalformedBody(f"not a safetensors file: {what}")
