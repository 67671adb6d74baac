"""Large hostile inputs, and what a fresh process needs to read one."""

import contextlib
import json
import re
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from app.codecs import json as json_codec
from app.codecs import open_inference, safetensors
from app.codecs.inflate import inflate
from app.errors import LaminaError
from app.schemas.tensors import TensorField

MIB = 1 << 20
Read = Callable[[bytes], object]
STATUS = Path("/proc/self/status")
FIELDS = {"input": TensorField()}


def _json(data: bytes) -> object:
    return json_codec.decode(data, FIELDS, max_rank=8, max_list=3)


def _safetensors(data: bytes) -> object:
    return safetensors.decode(data, FIELDS, max_rank=8, max_list=3)


def _raw(data: bytes) -> object:
    return open_inference.decode(data, 0, max_rank=8, max_tensors=3)


def _framed_v2(data: bytes) -> object:
    return open_inference.decode(data, 2, max_rank=8, max_tensors=3)


def _inflate(data: bytes) -> object:
    return inflate(data, b"deflate", max(len(data), 16 * MIB))


def _text(item: bytes, size: int) -> bytes:
    return b'{"input":[' + item * (size // len(item)) + b"0]}"


def _file(length: int, size: int) -> bytes:
    entry = {"dtype": "U8", "shape": [length], "data_offsets": [0, size]}
    header = json.dumps({"input": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


INPUTS: Mapping[str, tuple[Read, Callable[[int], bytes], int]] = {
    "numbers": (_json, lambda size: _text(b"0,", size), 20),
    "long-numbers": (_json, lambda size: _text(b"0.1234567890123456,", size), 6),
    "empty-rows": (_json, lambda size: _text(b"[],", size), 20),
    "rows-of-one": (_json, lambda size: _text(b"[0],", size), 20),
    "names-of-nan": (_json, lambda size: _text(b'"NaN",', size), 12),
    "long-integers": (_json, lambda size: _text(b"9" * 20 + b",", size), 18),
    "many-fields": (_json, lambda size: b"{" + b'"a":0,' * (size // 6) + b'"b":0}', 12),
    "safetensors": (_safetensors, lambda size: _file(size, size), 2),
    "safetensors-short": (_safetensors, lambda size: _file(size + 1, size), 2),
    "raw": (_raw, lambda size: bytes(size), 2),
    "bytes-left-behind": (_framed_v2, lambda size: b"{}" + bytes(size), 2),
    "stored": (_inflate, lambda size: zlib.compress(bytes(size), 0), 2),
    "bomb": (_inflate, lambda size: zlib.compress(bytes(16 * size)), 2),
}
"""How to read it, how to make it, how many times its own size reading may take.

A binary decoder takes at most the input twice. JSON of short numbers becomes more: simdjson keeps
16 bytes a number, and a buffer of float64 8 more.
"""


def grown_bytes(name: str, path: Path) -> int:
    """How much the process's peak grows while the input in the file is read."""
    read, make, _ = INPUTS[name]
    with contextlib.suppress(LaminaError):
        read(make(1000))
    data = path.read_bytes()
    before = _peak_bytes()
    with contextlib.suppress(LaminaError):
        read(data)
    return _peak_bytes() - before


def _peak_bytes() -> int:
    """Not `getrusage`'s, which a child inherits from its parent."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(grown_bytes(sys.argv[1], Path(sys.argv[2])))
