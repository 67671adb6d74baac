"""What comes in and goes out: media types, the body and its limit."""

from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from app.codecs import CODECS, JSON, SAFETENSORS
from app.errors import BodyTooLarge, NotAcceptable, UnsupportedMedia

LIMITS = {JSON: "max_json_body_bytes", SAFETENSORS: "max_binary_body_bytes"}
"""Which limit holds for a body of each media type."""
LISTS = {b"accept", b"content-encoding"}
"""The headers read here whose value is a list."""
Headers = Mapping[bytes, bytes]


def media_type(headers: Headers, taken: tuple[str, ...] = tuple(CODECS)) -> str:
    """The body's media type.

    Raises:
        UnsupportedMedia: none of those `taken`, or a content encoding.

    """
    sent = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("l1")
    if sent not in taken:
        raise UnsupportedMedia(
            f"expected Content-Type: {' or '.join(taken)}; got {sent[:64] or 'none'}"
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia("expected no Content-Encoding; send the body as it is")
    return sent


def accepted(headers: Headers, offered: tuple[str, ...] = tuple(CODECS)) -> str:
    """The media type to answer in: the caller's favourite, of equals the first it names.

    Of the ranges that take a type, the most specific gives its weight (RFC 9110, 12.5.1).

    Raises:
        NotAcceptable: none of those `offered`.

    """
    ranges: dict[str, tuple[float, int]] = {}
    parts = headers.get(b"accept", b"").decode("l1").lower().split(",")
    for place, part in enumerate(filter(str.strip, parts)):
        name, weight = _media_range(part)
        ranges.setdefault(name, (weight, -place))
    if not ranges:
        return offered[0]

    def preference(media: str) -> tuple[float, int]:
        taking = (media, media.partition("/")[0] + "/*", "*/*")
        return next((ranges[name] for name in taking if name in ranges), (0.0, 0))

    chosen = max(offered, key=preference)
    if not preference(chosen)[0]:
        raise NotAcceptable(f"answers are {' or '.join(offered)}; the Accept header takes neither")
    return chosen


def _media_range(part: str) -> tuple[str, float]:
    """Name and weight; a weight that is no number from 0 to 1 is 0."""
    name, *parameters = (piece.strip() for piece in part.split(";"))
    try:
        weight = next((float(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
    except ValueError:
        weight = 0.0
    return name, weight if 0 <= weight <= 1 else 0.0


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes | bytearray:
    """The request's body.

    Raises:
        BodyTooLarge: over `limit` bytes, by its length or as it comes.
        ClientDisconnect: the client left.

    """
    length = headers.get(b"content-length", b"0")
    if len(length) > 18 or int(length) > limit:
        raise BodyTooLarge(
            f"expected at most {limit} bytes; the body has {length[:18].decode('l1')}"
        )
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise BodyTooLarge(f"expected at most {limit} bytes; the body has more")
        if not message.get("more_body") and not body:
            return chunk
        body += chunk
        if not message.get("more_body"):
            return body


def headers_of(scope: Scope) -> Headers:
    """The request's headers; repeated lists are one (RFC 9110, 5.3), of others the last counts."""
    headers = dict(scope["headers"])
    if len(headers) < len(scope["headers"]):
        for name in LISTS & headers.keys():
            headers[name] = b", ".join(value for key, value in scope["headers"] if key == name)
    return headers
