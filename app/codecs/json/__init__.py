"""JSON: numbers go from text to a buffer and back without becoming Python objects.

simdjson parses the text and hands each numeric array over as one flat buffer; orjson prints
arrays. What these two refuse, or would flatten or print as `null` in silence (ragged rows,
non-finite numbers, integers beyond 64 bits), takes a slower path under the same rules.
"""

from app.codecs.json._reader import decode
from app.codecs.json._writer import encode

INLINE_BYTES = 384 * 1024
"""Messages up to this size are read or printed in about a millisecond."""

__all__ = ["INLINE_BYTES", "decode", "encode"]
