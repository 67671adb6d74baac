"""safetensors: a JSON header, then each tensor's bytes, little-endian and row-major.

A request's tensor fields are stored under their own names (the tensors of a list under `inputs.0`,
`inputs.1`), and everything else as one JSON object under `request` in the metadata. An answer's
tensors are stored under their dotted paths, and the rest under `response`. Bytes are viewed, never
copied. The safetensors library copies each tensor and trusts headers of up to 100 MB, so only the
tests use it, to read our files. Format: https://github.com/huggingface/safetensors.
"""

from app.codecs.safetensors._reader import decode
from app.codecs.safetensors._writer import encode

INLINE_BYTES = INLINE_NUMBERS = 1 << 62
"""Both functions only read or write a header, whatever the size of the tensors."""


def need_bytes(body_bytes: int) -> int:
    """Memory that reading a body takes."""
    return body_bytes


def answer_bytes(numbers: int, dtype: str) -> int:  # noqa: ARG001
    """Memory that an answer takes in addition to its tensors."""
    return 0


__all__ = ["INLINE_BYTES", "INLINE_NUMBERS", "answer_bytes", "decode", "encode", "need_bytes"]
