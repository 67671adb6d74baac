"""Bytes on the wire <-> payloads. Each codec is a module with the verbs `decode` and `encode`.

Both work on whole messages: a mapping from field names to plain values and tensor payloads.
Nothing here knows torch.
"""

from types import ModuleType

from app.codecs import json

CODECS: dict[str, ModuleType] = {"application/json": json}
