"""Writes the hostile safetensors files beside it: one named attack each, always the same bytes.

`python -m tests.hostile.make`. But for its attack, each file is one that `relu` answers (those
named `list-...`: `sync_batch_norm`; `chain-...`: a chain; `result-...`: a check of `relu`).
What each must give stands in `tests/codecs/test_safetensors.py`.
"""

import io
import json
import struct
import zipfile
from pathlib import Path

EIGHT = struct.pack("<2f", 1, -2)
MAX_FILE_BYTES = 4096
"""Longer attacks are sent without lying here."""
Header = dict[str, object]


def framed(header: object, data: bytes = EIGHT, length: int | None = None) -> bytes:
    """A file; `length` is what it claims of its header, where that is a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: object = (2,), offsets: object = (0, 8), dtype: object = "F32") -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def asked(request: str) -> Header:
    return {"__metadata__": {"request": request}, "input": entry()}


def two(first: Header, second: Header) -> Header:
    return {"input": first, "grad_output": second}


def listed(tensors: Header, data: bytes = EIGHT) -> bytes:
    return framed({"__metadata__": {"request": '{"training": true}'}, **tensors}, data)


def chained(name: str) -> bytes:
    """A chain of two layers, with a tensor of that name."""
    request = '{"layers": [{"layer": "relu"}, {"layer": "relu"}]}'
    return framed({"__metadata__": {"request": request}, "input": HALF, name: REST})


def checked(name: str, request: str = "{}", dtype: str = "F32") -> bytes:
    """A check with a tensor of that name."""
    return framed(
        {"__metadata__": {"request": request}, "request.input": HALF,
         name: entry([1], [4, 8], dtype)}
    )  # fmt: skip


def zipped() -> bytes:
    npy = b"\x93NUMPY\1\0" + struct.pack("<H", 118)
    npy += b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}".ljust(117) + b"\n" + EIGHT
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(zipfile.ZipInfo("input.npy"), npy)
    return file.getvalue()


BASE = {"input": entry()}
TEXT = json.dumps(BASE).encode()
HALF = entry([1], [0, 4])
REST = entry([1], [4, 8])
ROW = entry([1, 1], [0, 4])
NEXT_ROW = entry([1, 1], [4, 8])
ATTACKS = {
    # The frame.
    "empty": b"",
    "seven-bytes": b"\2\0\0\0\0\0\0",
    "length-0": framed(b"", b""),
    "length-beyond-the-file": framed(BASE, length=len(TEXT) + 9),
    "length-2-to-63": framed(BASE, length=2**63),
    "length-2-to-64-less-1": framed(BASE, length=2**64 - 1),
    "length-cuts-the-header": framed(BASE, length=len(TEXT) - 1),
    "pickle": b"\x80\x04\x95\x1b\0\0\0\0\0\0\0}\x94\x8c\x05input\x94]\x94(G?\xf0\0\0\0\0\0\0es.",
    "npz": zipped(),
    # The header as text.
    "header-over-64-kib": framed(TEXT.ljust(65_544)),
    "header-after-a-space": framed(b" " + TEXT),
    "header-after-a-bom": framed(b"\xef\xbb\xbf" + TEXT),
    "header-in-utf-16": framed(TEXT.decode().encode("utf-16-le")),
    "header-not-utf-8": framed(TEXT[:-1] + b', "__metadata__": {"a": "\xff"}}'),
    "header-an-array": framed([BASE]),
    "header-padded-with-nul": framed(TEXT + b"\0"),
    "header-twice": framed(TEXT + TEXT),
    "header-deep": framed(b'{"__metadata__": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"),
    "header-of-a-long-number": framed(TEXT.replace(b"8]", b"8" * 5000 + b"]")),
    "header-with-nan": framed(TEXT.replace(b"8]", b"NaN]")),
    "name-twice": framed(TEXT[:-1] + b", " + TEXT[1:]),
    "member-twice": framed(TEXT.replace(b'"shape": [2]', b'"shape": [9], "shape": [2]')),
    "metadata-twice": framed(b'{"__metadata__": {}, "__metadata__": {}, ' + TEXT[1:]),
    "metadata-a-list": framed({"__metadata__": [], **BASE}),
    "metadata-null": framed({"__metadata__": None, **BASE}),
    "metadata-of-numbers": framed({"__metadata__": {"format": 1}, **BASE}),
    # The request.
    "request-an-object": framed({"__metadata__": {"request": {}}, **BASE}),
    "request-not-json": framed(asked("{'explain': true}")),
    "request-cut": framed(asked('{"explain": true')),
    "request-an-array": framed(asked("[]")),
    "request-with-nan": framed(asked('{"explain": NaN}')),
    "request-deep": framed(asked('{"explain": ' + "[" * 5000)),
    "request-a-lone-surrogate": framed(asked('{"explain": "\ud800"}')),
    "request-of-an-unknown-field": framed(asked('{"explian": true}')),
    "request-field-twice": framed(asked('{"explain": true, "explain": false}')),
    "request-holds-the-input-too": framed(asked('{"input": [1, -2]}')),
    "request-holds-a-tensor": framed(asked('{"grad_output": [1, 1]}')),
    "request-holds-all-tensors": framed({"__metadata__": {"request": '{"input": [1]}'}}, b""),
    # Entries.
    "entry-a-number": framed({"input": 8}),
    "entry-without-dtype": framed({"input": {"shape": [2], "data_offsets": [0, 8]}}),
    "entry-without-shape": framed({"input": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "entry-without-offsets": framed({"input": {"dtype": "F32", "shape": [2]}}),
    "shape-a-number": framed({"input": entry(2)}),
    "shape-nested": framed({"input": entry([[2]])}),
    "shape-of-booleans": framed({"input": entry([True, 2])}),
    "shape-of-floats": framed({"input": entry([2.0])}),
    "shape-negative": framed({"input": entry([-1, -2])}),
    "shape-beyond-its-bytes": framed({"input": entry([3])}),
    "shape-below-its-bytes": framed({"input": entry([1])}),
    "shape-wraps-64-bits": framed({"input": entry([2**16] * 4, [0, 0])}, b""),
    "shape-of-2-to-124": framed({"input": entry([2**31 - 1] * 4)}),
    "extent-2-to-31": framed({"input": entry([0, 2**31], [0, 0])}, b""),
    "extent-2-to-62": framed({"input": entry([0, 2**62], [0, 0])}, b""),
    "rank-9": framed({"input": entry([1] * 8 + [2])}),
    "rank-10000": framed({"input": entry([1] * 9999 + [2])}),
    "offsets-of-three": framed({"input": entry([2], [0, 4, 8])}),
    "offsets-of-floats": framed({"input": entry([2], [0.0, 8.0])}),
    "offsets-of-booleans": framed({"input": entry([0], [False, False])}, b""),
    "offsets-negative": framed({"input": entry([2], [-8, 0])}),
    "offsets-reversed": framed({"input": entry([2], [8, 0])}),
    "offsets-beyond-the-file": framed({"input": entry([2], [8, 16])}),
    "offsets-wrap-64-bits": framed({"input": entry([2], [2**64 - 8, 2**64])}),
    # The bytes behind the header.
    "data-cut": framed(BASE, EIGHT[:-1]),
    "data-missing": framed(BASE, b""),
    "data-left-over": framed(BASE, EIGHT + b"\0"),
    "data-of-nobody": framed({}, EIGHT),
    "gap-before": framed({"input": entry([2], [4, 12])}, EIGHT * 2),
    "gap-between": framed(two(HALF, entry([1], [8, 12])), EIGHT + b"\0" * 4),
    "overlap": framed(two(entry(), entry([2], [4, 12])), EIGHT + b"\0" * 4),
    "overlap-of-all": framed(two(entry(), entry())),
    "overlap-of-nothing": framed({"input": entry(), "weight": entry([0], [4, 4])}),
    "tensors-900": framed({f"t{i}": entry([0], [0, 0]) for i in range(900)}, b""),
    # Tensors and dtypes that are well formed and wrong.
    "no-tensor": framed({}, b""),
    "tensor-unknown": framed({"inptu": entry()}),
    "tensor-unknown-in-float64": framed(
        {"inptu": entry([1], dtype="F64"), "input": entry(offsets=[8, 16])}, EIGHT * 2
    ),
    "tensor-of-no-name": framed({"": entry()}),
    "tensor-named-as-an-option": framed({"explain": HALF, "input": entry([1], [4, 8])}),
    "tensor-named-dtype": framed({"dtype": HALF, "input": entry([1], [4, 8])}),
    "tensor-named-as-a-list": framed({"input.0": entry()}),
    "tensor-of-a-surrogate": framed(b'{"\\ud800": ' + json.dumps(entry()).encode() + b"}"),
    "dtype-bool": framed({"input": entry([8], dtype="BOOL")}),
    "dtype-c64": framed({"input": entry([1], dtype="C64")}),
    "dtype-f8-e4m3": framed({"input": entry([8], dtype="F8_E4M3")}),
    "dtype-u16": framed({"input": entry([4], dtype="U16")}),
    "dtype-small-letters": framed({"input": entry(dtype="f32")}),
    "dtype-of-our-own-name": framed({"input": entry(dtype="float32")}),
    "dtype-no-float": framed({"input": entry(dtype="I32")}),
    "dtype-other-than-asked": framed(asked('{"dtype": "bfloat16"}')),
    "dtype-not-a-word": framed(asked('{"dtype": []}')),
    "dtype-an-object": framed(asked('{"dtype": {"a": 1}}')),
    "dtype-unknown": framed(asked('{"dtype": "float31"}')),
    "dtype-mixed": framed(two(entry(), entry([1], [8, 16], "F64")), EIGHT * 2),
    "dtype-mixed-wider-first": framed(
        {"grad_output": entry([1], dtype="F64"), "input": entry(offsets=[8, 16])}, EIGHT * 2
    ),
    # Lists.
    "list-with-a-gap": listed({"inputs.0": ROW, "inputs.2": NEXT_ROW}),
    "list-from-1": listed({"inputs.1": ROW, "inputs.2": NEXT_ROW}),
    "list-of-padded-numbers": listed({"inputs.00": ROW, "inputs.01": NEXT_ROW}),
    "list-of-letters": listed({"inputs.a": ROW, "inputs.b": NEXT_ROW}),
    "list-in-one": listed({"inputs": entry([2, 1])}),
    "list-and-one": listed(
        {"inputs": entry([2, 1]), "inputs.0": entry([2, 1], [8, 16])}, EIGHT * 2
    ),
    "list-below-a-list": listed({"inputs.0.0": ROW, "inputs.0.1": NEXT_ROW}),
    "list-number-of-5000-digits": listed({"inputs.0": ROW, "inputs." + "9" * 5000: NEXT_ROW}),
    # Names of nested tensors.
    "chain-a-tensor": chained("layers"),
    "chain-layer-a-tensor": chained("layers.1"),
    "chain-index-beyond": chained("layers.2.bias"),
    "chain-index-negative": chained("layers.-1.bias"),
    "chain-index-padded": chained("layers.01.bias"),
    "chain-index-superscript": chained("layers.\u00b2.bias"),
    "chain-index-of-other-digits": chained("layers.\u0661.bias"),
    "chain-tensor-unknown": chained("layers.1.wieght"),
    "chain-name-with-a-slash": chained("layers.1.a/b"),
    "result-unknown": checked("expected.outptu"),
    "result-twice": checked("expected.output", '{"expected": {"output": [1]}}'),
    "result-in-a-shape": checked("expected.output_shape"),
    "result-below-a-result": checked("expected.output.0"),
    "result-of-another-dtype": checked("expected.output", dtype="I32"),
    "result-in-a-number": checked("expected.output", '{"expected": 1}'),
    "list-of-other-digits": listed({"inputs.\u0660": ROW, "inputs.\u0661": NEXT_ROW}),
}  # fmt: skip
FILES = {name: attack for name, attack in ATTACKS.items() if len(attack) <= MAX_FILE_BYTES}


if __name__ == "__main__":
    for name, content in FILES.items():
        (Path(__file__).parent / f"{name}.safetensors").write_bytes(content)
