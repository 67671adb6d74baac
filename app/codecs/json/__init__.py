"""JSON: numbers go from text to a buffer and back without becoming Python objects.

simdjson parses the text and hands each numeric array over as one flat buffer; orjson prints
arrays. What these two refuse, or would flatten or print as `null` in silence (ragged rows,
non-finite numbers, integers beyond 64 bits), takes a slower path under the same rules.
"""

from app.codecs.json._reader import decode
from app.codecs.json._writer import encode, printed, warm_up
from app.schemas.tensors import DTYPES

INLINE_BYTES = 384 * 1024
"""Messages up to this size are read in about a millisecond."""
INLINE_NUMBERS = 38 * 1024
"""Answers of so many numbers are printed in about a millisecond."""
NEED_FACTOR = 10
"""Memory at the peak of reading to the body's length, beside what the parser keeps: the body, and
a number of up to eight bytes for two of its characters."""


def need_bytes(body_bytes: int) -> int:
    """Memory that reading a body takes."""
    return NEED_FACTOR * body_bytes


def answer_bytes(numbers: int, dtype: str) -> int:
    """Memory that the text of an answer takes."""
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
