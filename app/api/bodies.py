"""What comes in and goes out: media types, the body and its limit."""

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from app.codecs import CODECS
from app.errors import BodyTooLarge, NotAcceptable, UnsupportedMedia


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | bytearray:
    """The body of a JSON request.

    Raises:
        UnsupportedMedia: another content type, or a content encoding.
        NotAcceptable: the caller takes no JSON.
        BodyTooLarge: over `limit` bytes, by its length or as it comes.
        ClientDisconnect: the client left.

    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    check_headers(headers, limit)
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


def check_headers(headers: dict[bytes, bytes], limit: int) -> None:
    """Refuse by its headers what cannot be read or answered."""
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("l1")
    if media_type not in CODECS:
        raise UnsupportedMedia(
            f"expected Content-Type: {' or '.join(CODECS)}; got {media_type[:64] or 'none'}"
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia("expected no Content-Encoding; send the body as it is")
    if b"accept" in headers:
        check_accept(headers[b"accept"].decode("l1"))
    length = headers.get(b"content-length", b"0")
    if len(length) > 18 or int(length) > limit:
        raise BodyTooLarge(
            f"expected at most {limit} bytes; the body has {length[:18].decode('l1')}"
        )


def check_accept(accept: str) -> None:
    """Refuse callers that take neither JSON nor anything."""
    taken = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if not taken & {"*/*", "application/*", "", *CODECS}:
        raise NotAcceptable(f"answers are {' or '.join(CODECS)}; the Accept header takes neither")
