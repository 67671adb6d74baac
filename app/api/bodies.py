"""Request bodies and headers: media type, size limit, deadline."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from app.codecs import CODECS
from app.errors import (
    BodyTimeout,
    BodyTooLarge,
    InvalidRequest,
    LengthRequired,
    UnsupportedMedia,
)
from app.scheduling import clock

FOREIGN = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""Types often sent by mistake, which error messages may name; other values are not echoed."""
FREE_BYTES = 8192
"""How much of a body a connection may hold without a memory reservation."""
Headers = Mapping[bytes, bytes]


def media_type(headers: Headers, taken: tuple[str, ...] = tuple(CODECS)) -> str:
    """The body's media type.

    Raises:
        UnsupportedMedia: the type is not one of `taken`, or the body is compressed.

    """
    lines = headers.get(b"content-type", b"").split(b",")
    sent = lines[0].partition(b";")[0].strip().lower().decode("l1")
    same = all(line.partition(b";")[0].strip().lower().decode("l1") == sent for line in lines[1:])
    if sent not in taken or not same:
        got = (sent if sent in FOREIGN else "another" if sent else "none") if same else "several"
        raise UnsupportedMedia(f"expected Content-Type: {' or '.join(taken)}; got {got}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia("Content-Encoding is not supported; send the body uncompressed")
    return sent


def body_length(headers: Headers, limit: int) -> int | None:
    """The length of the body in bytes, or None if it is chunked.

    Raises:
        LengthRequired: the request has neither Content-Length nor Transfer-Encoding.
        BodyTooLarge: the length exceeds the limit.

    """
    text = headers.get(b"content-length", b"")
    if not text.isdigit():
        if b"transfer-encoding" in headers:
            return None
        raise LengthRequired("expected a body with a Content-Length; got none")
    if len(text) > 18 or int(text) > limit:
        raise BodyTooLarge(f"expected at most {limit} bytes; the body has {text[:18].decode()}")
    return int(text)


async def read_body(
    receive: Receive,
    limit: int,
    idle_timeout_ms: int,
    until_s: float = math.inf,
    make_room: Callable[[int], Awaitable[int]] | None = None,
) -> bytes | bytearray:
    """Receive the request's body into one buffer.

    The first few KiB need no reservation, so a client that sends only headers holds no memory that
    others could use. After that, `make_room` is called with the number of bytes received whenever
    it exceeds the room granted before, and returns the new room.

    The whole body must arrive by `until_s` on `clock`; otherwise, a client that trickles bytes
    could hold memory for days.

    Raises:
        BodyTooLarge: the body exceeds the limit.
        BodyTimeout: nothing arrived for `idle_timeout_ms`, or the deadline passed.
        ClientDisconnect: the client disconnected.

    """
    body, end, room = bytearray(), 0, FREE_BYTES
    while True:
        message = await _next(receive, idle_timeout_ms, until_s)
        chunk: bytes = message.get("body", b"")
        if end + len(chunk) > limit:
            raise BodyTooLarge(f"expected at most {limit} bytes; the body has more")
        more = message.get("more_body", False)
        if end + len(chunk) > room and make_room is not None:
            room = await make_room(end + len(chunk))
            body = _in_room(body, room if more or end else 0)
        if not more and not end:
            return chunk
        body[end : end + len(chunk)] = chunk
        end += len(chunk)
        if not more:
            del body[end:]
            return body


def _in_room(body: bytearray, room: int) -> bytearray:
    """A copy of the bytes in a buffer of `room` bytes."""
    roomy = bytearray(room)
    roomy[: len(body)] = body
    return roomy


async def _next(receive: Receive, idle_timeout_ms: int, until_s: float) -> Message:
    left_s = until_s - clock()
    try:
        async with asyncio.timeout(min(idle_timeout_ms / 1e3, left_s)):
            message = await receive()
    except TimeoutError:
        if left_s * 1e3 < idle_timeout_ms:
            raise BodyTimeout("the body did not arrive before the request's deadline") from None
        raise BodyTimeout(f"no bytes of the body arrived for {idle_timeout_ms} ms") from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


def deadline_s(scope: Scope, headers: Headers, most_ms: int) -> float:
    """The deadline for the answer, on `clock`, measured from the request's arrival.

    Raises:
        InvalidRequest: `X-Request-Timeout-Ms` is not a number.

    """
    arrived_s: float = scope.get("state", {}).get("arrived") or clock()
    text = headers.get(b"x-request-timeout-ms")
    if text is None:
        return arrived_s + most_ms / 1e3
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequest("X-Request-Timeout-Ms: expected an integer number of milliseconds")
    return arrived_s + min(int(text), most_ms) / 1e3


def headers_of(scope: Scope) -> Headers:
    """The request's headers, with repeated ones joined into a list, as RFC 9110 allows."""
    lines: Sequence[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(lines)
    if len(headers) < len(lines):
        found: dict[bytes, list[bytes]] = {}
        for name, value in lines:
            found.setdefault(name, []).append(value)
        headers = {name: b", ".join(values) for name, values in found.items()}
    return headers
