"""`LAYER.h`: static arrays for C and C++; half types as `float`."""

import json
import math
from collections.abc import Iterator

from app.operations.vectors import Case
from app.vector_files._set import (
    Files,
    LeftOut,
    VectorSet,
    numbers,
    options_of,
    tensors_of,
    tolerance_of,
)

TYPES = {
    "float32": "float", "float64": "double", "float16": "float", "bfloat16": "float",
    "int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t", "int64": "int64_t",
}  # fmt: skip
LEAST_INT64 = -(2**63)


def write(vectors: VectorSet) -> tuple[Files, LeftOut]:
    """One header."""
    guard = f"LAMINA_{vectors.layer.upper()}_H"
    lines = [
        f"/* Golden vectors of {vectors.layer}, {vectors.dtype}, seed {vectors.seed}.",
        "   `lamina vectors` wrote this file. An empty tensor has one element that does not count.",
        "*/",
        f"#ifndef {guard}",
        f"#define {guard}",
        "#include <math.h>",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
    ]
    for case in vectors.cases:
        lines += _arrays(f"{vectors.layer}_{case.name.replace('-', '_')}", case)
    lines.append("#endif")
    return {f"{vectors.layer}.h": ("\n".join(lines) + "\n").encode()}, {}


def _arrays(prefix: str, case: Case) -> Iterator[str]:
    yield f"/* {case.why} */"
    yield f"static const char *const {prefix}_options = {json.dumps(json.dumps(options_of(case)))};"
    tolerance = tolerance_of(case)
    for name, payload in tensors_of(case).items():
        word = f"{prefix}_{name.replace('.', '_')}"
        kind = TYPES[payload.dtype]
        values = [_literal(number, kind) for number in numbers(payload)]
        shape = ", ".join(map(str, payload.shape)) or "1"
        yield f"enum {{ {word}_rank = {len(payload.shape)}, {word}_count = {len(values)} }};"
        yield f"static const size_t {word}_shape[] = {{{shape}}};"
        yield f"static const {kind} {word}[] = {{{', '.join(values) or '0'}}};"
        if name in tolerance:
            atol, rtol = (float(tolerance[name][part]) for part in ("atol", "rtol"))
            yield f"static const double {word}_atol = {atol!r}, {word}_rtol = {rtol!r};"
    yield ""


def _literal(number: float, kind: str) -> str:
    if kind not in ("float", "double"):
        return f"(-{2**63 - 1} - 1)" if number == LEAST_INT64 else str(number)
    if math.isnan(number):
        return "NAN"
    if math.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    return repr(number) + ("f" if kind == "float" else "")
