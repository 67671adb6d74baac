"""safetensors: a JSON header, then each tensor's bytes, little-endian and row-major.

A request's tensor fields stand under their own names (the tensors of a list under `inputs.0`,
`inputs.1`), everything else as one JSON object in the metadata under `request`; an answer's
tensors under their dotted paths, the rest under `response`. Bytes are viewed, never copied: the
library copies each tensor, and trusts headers of up to 100 MB, so it reads our files in the tests
alone. Format: https://github.com/huggingface/safetensors.
"""

from app.codecs.safetensors._reader import decode
from app.codecs.safetensors._writer import encode

INLINE_BYTES = INLINE_NUMBERS = 1 << 62
"""Both verbs only read or print a header, whatever the size of the tensors."""


def need_bytes(body_bytes: int) -> int:
    """Memory that reading a body takes."""
    return body_bytes


def answer_bytes(numbers: int, dtype: str) -> int:  # noqa: ARG001
    """Memory that an answer takes beside its tensors."""
    return 0


__all__ = ["INLINE_BYTES", "INLINE_NUMBERS", "answer_bytes", "decode", "encode", "need_bytes"]
