"""What comes in: media type, the body and its limit."""

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
"""What clients send by mistake, and may be told so; other values are not repeated to them."""
FREE_BYTES = 8192
"""What any connection may hold of a body without asking."""
Headers = Mapping[bytes, bytes]


def media_type(headers: Headers, taken: tuple[str, ...] = tuple(CODECS)) -> str:
    """The body's media type.

    Raises:
        UnsupportedMedia: none of those `taken`, or a content encoding.

    """
    lines = headers.get(b"content-type", b"").split(b",")
    sent = lines[0].partition(b";")[0].strip().lower().decode("l1")
    same = all(line.partition(b";")[0].strip().lower().decode("l1") == sent for line in lines[1:])
    if sent not in taken or not same:
        got = (sent if sent in FOREIGN else "another" if sent else "none") if same else "several"
        raise UnsupportedMedia(f"expected Content-Type: {' or '.join(taken)}; got {got}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia("expected no Content-Encoding; send the body as it is")
    return sent


def body_length(headers: Headers, limit: int) -> int | None:
    """How long the body is, bytes; None where it comes in chunks.

    Raises:
        LengthRequired: there is neither a length nor chunks.
        BodyTooLarge: over the limit.

    """
    text = headers.get(b"content-length", b"")
    if not text.isdigit():
        if b"transfer-encoding" in headers:
            return None
        raise LengthRequired("expected a body and its Content-Length; there is none")
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
    """The request's body, in one buffer.

    The first few KiB are free: who sends no more than headers holds no memory of others. From then
    on `make_room` is told how much came, whenever that is more than the room that it gave.

    The body must be there at `until_s` on `clock`: a byte now and then would hold its memory for
    days.

    Raises:
        BodyTooLarge: over the limit.
        BodyTimeout: a pause of more than `idle_timeout_ms`, or its time is over.
        ClientDisconnect: the client left.

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
    """The same bytes, and behind them place for others up to `room`."""
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
            raise BodyTimeout("the body was not there when the request's time was over") from None
        raise BodyTimeout(f"no byte of the body came for {idle_timeout_ms} ms") from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


def deadline_s(scope: Scope, headers: Headers, most_ms: int) -> float:
    """When the answer must be ready, on `clock`: so long after the request's arrival.

    Raises:
        InvalidRequest: `X-Request-Timeout-Ms` is no number.

    """
    arrived_s: float = scope.get("state", {}).get("arrived") or clock()
    text = headers.get(b"x-request-timeout-ms")
    if text is None:
        return arrived_s + most_ms / 1e3
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequest("X-Request-Timeout-Ms: expected a whole number of milliseconds")
    return arrived_s + min(int(text), most_ms) / 1e3


def headers_of(scope: Scope) -> Headers:
    """The request's headers; repeated ones as one list, which RFC 9110 says they are."""
    lines: Sequence[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(lines)
    if len(headers) < len(lines):
        found: dict[bytes, list[bytes]] = {}
        for name, value in lines:
            found.setdefault(name, []).append(value)
        headers = {name: b", ".join(values) for name, values in found.items()}
    return headers
