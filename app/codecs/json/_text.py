"""Parses text to a simdjson document, and diagnoses the error where that fails."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import simdjson

from app.errors import FieldError, InvalidRequest, MalformedBody, escaped
from app.schemas.tensors import json_kind

MAX_MEMBERS = 256
DIAGNOSED_BYTES = 256 * 1024
"""Longest body that is parsed again with Python's parser to locate the error."""
_LONG_INTEGER = b"0" * 19
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_DIGIT_RUN = re.compile(b"0+")


def parse(parser: simdjson.Parser, body: bytes | bytearray) -> simdjson.Object:
    """Parse a body that is one JSON object.

    Raises:
        MalformedBody: not a JSON object in UTF-8.
        InvalidRequest: a number beyond the range of float64.

    """
    try:
        document = parser.parse(body)
    except UnicodeDecodeError as error:
        raise MalformedBody("the body is not valid UTF-8") from error
    except (RuntimeError, ValueError) as error:
        widened = _print_long_integers_as_floats(body)
        if widened == body:
            _diagnose(body, error)
        return parse(parser, widened)
    if not isinstance(document, simdjson.Object):
        raise MalformedBody(f"expected a JSON object; got {json_kind(plain_kind(document))}")
    return document


def members(document: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over a simdjson object's names and values as proxies; `items` makes Python objects.

    Raises:
        InvalidRequest: more members than a request can have, since each lookup is a linear search;
            or a name with a NUL, at which simdjson's lookup stops.

    """
    if len(document) > MAX_MEMBERS:
        raise InvalidRequest(f"expected at most {MAX_MEMBERS} fields; got {len(document)}")
    for name in document.keys():
        if "\0" in name:
            raise InvalidRequest("a field name contains a NUL character")
        yield name, document[name]


def plain_kind(value: object) -> object:
    """A plain value of the same JSON type as a simdjson proxy."""
    if isinstance(value, simdjson.Array):
        return ()
    return {} if isinstance(value, simdjson.Object) else value


def _print_long_integers_as_floats(body: bytes | bytearray) -> bytes:
    """Append `.0` to integers of 19 or more digits, since simdjson rejects those beyond 64 bits.

    Such integers occur: JavaScript serializes 1e20 as 100000000000000000000.
    """
    pieces, done = [], 0
    for start, end in outside_strings(body, _long_integers(body)):
        sign = body[start - 1 : start] == b"-"
        before, after = body[start - 1 - sign : start - sign], body[end : end + 1]
        if before and before in b"[,: \t\r\n" and after in b",]} \t\r\n":
            pieces += [body[done:end], b".0"]
            done = end
    return b"".join([*pieces, body[done:]])


def _long_integers(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    digits, end = body.translate(_DIGITS), 0
    while (start := digits.find(_LONG_INTEGER, end)) >= 0:
        end = start + len(_DIGIT_RUN.match(digits, start)[0])  # type: ignore[index]
        yield start, end


def outside_strings(
    text: bytes | bytearray, places: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield the places, ordered `(start, end)` pairs, that are not inside a JSON string.

    This counts quotes, with searches that are short even in long strings, because no other thread
    can run during a search.
    """
    quotes, inside, seen = None, 0, 0
    for start, end in places:
        quotes = quotes or _without_escapes(text)
        inside ^= quotes.count(b'"', seen, start) & 1
        seen = start
        if not inside:
            yield start, end


def _without_escapes(text: bytes | bytearray) -> bytes | bytearray:
    if b"\\" not in text:
        return text
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _diagnose(body: bytes | bytearray, error: Exception) -> NoReturn:
    if not body.strip():
        raise MalformedBody("expected a JSON object; got an empty body") from error
    if len(body) <= DIAGNOSED_BYTES:
        try:
            value = json.loads(body, parse_constant=_refuse_constant)
        except json.JSONDecodeError as found:
            where = f"line {found.lineno} column {found.colno}"
            raise MalformedBody(f"invalid JSON: {found.msg} at {where}") from error
        except (RecursionError, ValueError):
            raise MalformedBody("invalid JSON: nested too deeply, or a number too long") from error
        for pointer in _infinite_numbers(value, ""):
            raise InvalidRequest(
                'a number is out of range for float64; send infinity as "Infinity"',
                [FieldError(f"#{pointer}", "out-of-range", "out of range for float64")],
            ) from error
    raise MalformedBody("invalid JSON, or a number is out of range for float64") from error


def _refuse_constant(token: str) -> Any:
    raise MalformedBody(f'JSON does not allow {token}; send it as the string "{token}"')


def _infinite_numbers(value: object, pointer: str) -> Iterator[str]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _infinite_numbers(item, f"{pointer}/{escaped(str(key))}")
    elif isinstance(value, float) and math.isinf(value):
        yield pointer
