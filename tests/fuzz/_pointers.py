"""Whether an error's pointer leads to something that the client sent."""

import json
import struct
from typing import Any

from app.codecs import SAFETENSORS

MAX_SHOWN = 64
"""The service shortens names in pointers to so many characters."""
ABSENT = frozenset({"missing", "conflict"})
"""Codes of errors at a field that was not sent, or at the first of two that exclude each other."""


def leads_somewhere(media: str, body: bytes, pointer: str, code: str) -> bool:
    """Whether the pointer leads to a value, or for one that is missing, to what should hold it.

    In a file it may also be the path that a tensor's name is, or begins with, or the `dtype` that
    its tensors have.
    """
    assert pointer.startswith("#/"), pointer
    if media != SAFETENSORS:
        return _exists(json.loads(body), pointer, code)
    length = struct.unpack("<Q", body[:8])[0]
    header = json.loads(body[8 : 8 + length])
    rest = json.loads(header.pop("__metadata__", {}).get("request", "{}"))
    if pointer.endswith("/dtype") or _exists({**header, **rest}, pointer, code):
        return True
    path = pointer[2:].replace("~1", "/").replace("~0", "~").replace(".", "/")
    return any(f"{name}/".replace(".", "/").startswith(f"{path}/") for name in header)


def _exists(document: Any, pointer: str, code: str) -> bool:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer[2:].split("/")]
    node = document
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if isinstance(node, dict):
            found = [key for key in node if key == part or key[:MAX_SHOWN] == part]
            if not found:
                return is_last and code in ABSENT
            node = node[found[0]]
        elif isinstance(node, list):
            if part not in map(str, range(len(node))):
                return is_last and code in ABSENT and part.isdecimal()
            node = node[int(part)]
        else:
            return False
    return True
