"""What comes in and goes out: media types, the body and its limit."""

from starlette.requests import Request

from app.codecs import CODECS
from app.errors import BodyTooLarge, NotAcceptable, UnsupportedMedia


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request.

    Raises:
        UnsupportedMedia: another content type, or a content encoding.
        NotAcceptable: the caller takes no JSON.
        BodyTooLarge: over `limit` bytes, by its length or as it comes.

    """
    headers = request.headers
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in CODECS:
        raise UnsupportedMedia(
            f"expected Content-Type: {' or '.join(CODECS)}; got {media_type[:64] or 'none'}"
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("expected no Content-Encoding; send the body as it is")
    check_accept(headers.get("accept", "*/*"))
    length = headers.get("content-length", "0")
    if len(length) > 18 or int(length) > limit:
        raise BodyTooLarge(f"expected at most {limit} bytes; the body has {length[:18]}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"expected at most {limit} bytes; the body has more")
    return bytes(body)


def check_accept(accept: str) -> None:
    """Refuse callers that take neither JSON nor anything."""
    taken = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if not taken & {"*/*", "application/*", "", *CODECS}:
        raise NotAcceptable(f"answers are {' or '.join(CODECS)}; the Accept header takes neither")
