"""Bytes on the wire <-> payloads. Each codec is a module with the functions `decode` and `encode`.

Both work on whole messages: a mapping from field names to plain values and tensor payloads. A
message is encoded into a list of pieces, which share the payloads' memory where that saves a copy.
Nothing here depends on torch.
"""

from types import ModuleType

from app.codecs import json, safetensors
from app.codecs._arrays import (
    Array,
    as_array,
    as_payload,
    from_numbers,
    round_to_half,
    scalar,
    widen,
)
from app.codecs._paths import nested

JSON = "application/json"
SAFETENSORS = "application/vnd.safetensors"
CODECS: dict[str, ModuleType] = {JSON: json, SAFETENSORS: safetensors}

__all__ = [
    "CODECS",
    "JSON",
    "SAFETENSORS",
    "Array",
    "as_array",
    "as_payload",
    "from_numbers",
    "nested",
    "round_to_half",
    "scalar",
    "widen",
]
