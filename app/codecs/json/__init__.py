"""JSON: numbers go from text to a buffer and back without becoming Python objects.

simdjson parses the text and returns each numeric array as one flat buffer; orjson serializes
arrays. What these two reject, or would silently flatten or write as `null` (ragged rows,
non-finite numbers, integers beyond 64 bits), takes a slower path with the same rules.
"""

from app.codecs.json._reader import decode
from app.codecs.json._writer import encode, printed, warm_up
from app.schemas.tensors import DTYPES

INLINE_BYTES = 384 * 1024
"""Messages up to this size are read in about a millisecond."""
INLINE_NUMBERS = 38 * 1024
"""Answers with up to this many numbers are serialized in about a millisecond."""
NEED_FACTOR = 10
"""Peak memory of reading, as a multiple of the body's length, in addition to what the parser keeps:
the body, and a number of up to eight bytes for every two characters."""


def need_bytes(body_bytes: int) -> int:
    """Memory that reading a body takes."""
    return NEED_FACTOR * body_bytes


def answer_bytes(numbers: int, dtype: str) -> int:
    """Memory that an answer's text takes."""
    return numbers * (26 if DTYPES[dtype].itemsize == 8 else 16)


__all__ = [
    "INLINE_BYTES",
    "INLINE_NUMBERS",
    "answer_bytes",
    "decode",
    "encode",
    "need_bytes",
    "printed",
    "warm_up",
]
