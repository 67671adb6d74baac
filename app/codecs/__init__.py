"""Bytes on the wire <-> payloads. Each codec is a module with the verbs `decode` and `encode`.

Both work on whole messages: a mapping from field names to plain values and tensor payloads. A
message goes out in pieces, which are its parts' own memory where that saves a copy. Nothing here
knows torch.
"""

from types import ModuleType

from app.codecs import json, safetensors
from app.codecs._paths import nested

JSON = "application/json"
SAFETENSORS = "application/vnd.safetensors"
CODECS: dict[str, ModuleType] = {JSON: json, SAFETENSORS: safetensors}

__all__ = ["CODECS", "JSON", "SAFETENSORS", "nested"]
