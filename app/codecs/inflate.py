"""Decompression of bodies, with a limit on the decompressed size."""

import zlib

from app.errors import BodyTooLarge, MalformedBody

WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
"""zlib's `wbits` for each content encoding; deflate is a zlib stream (RFC 9110)."""

MAX_RATIO = 100
"""Higher than real data reaches; a small body must not expand into a lot of work."""
FREE_BYTES = 64 * 1024
"""Any body may expand to this size, whatever its ratio."""


def inflate(body: bytes | bytearray, encoding: bytes, limit: int) -> bytes:
    """Decompress a body.

    Raises:
        MalformedBody: not in that encoding, truncated, or followed by more bytes.
        BodyTooLarge: it expands to more than `limit` bytes, or to more than MAX_RATIO times its
            size.

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
