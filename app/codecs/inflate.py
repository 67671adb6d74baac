"""Compressed bodies, bounded by what comes out of them."""

import zlib

from app.errors import BodyTooLarge, MalformedBody

WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
"""What zlib expects of each content encoding; deflate is a zlib stream (RFC 9110)."""

MAX_RATIO = 100
"""More than numbers that are worth sending compress to; few bytes must not make much work."""
FREE_BYTES = 64 * 1024
"""So much may come out of any body."""


def inflate(body: bytes | bytearray, encoding: bytes, limit: int) -> bytes:
    """The body as it was before its content encoding.

    Raises:
        MalformedBody: not that encoding, cut short, or with bytes behind it.
        BodyTooLarge: more than `limit` bytes come out, or more than MAX_RATIO times the body.

    """
    limit = min(limit, max(MAX_RATIO * len(body), FREE_BYTES))
    decompressor = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        inflated = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedBody(f"the body is not valid {encoding.decode()}") from error
    if len(inflated) > limit:
        raise BodyTooLarge(f"expected at most {limit} bytes after decompression; got more")
    if not decompressor.eof or decompressor.unused_data:
        raise MalformedBody(f"the {encoding.decode()} body is truncated, or has trailing bytes")
    return inflated
