"""`LAYER.rs`: a module for each case, with tensors as static arrays; half types as `f32`."""

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
    "float32": "f32", "float64": "f64", "float16": "f32", "bfloat16": "f32", "int8": "i8",
    "uint8": "u8", "int32": "i32", "int64": "i64",
}  # fmt: skip


def write(vectors: VectorSet) -> tuple[Files, LeftOut]:
    """One file, to be included as a module."""
    lines = [
        f"// Golden vectors of {vectors.layer}, {vectors.dtype}, seed {vectors.seed}.",
        "// `lamina vectors` wrote this file. include!() it, or add it as a module.",
        "",
    ]
    for case in vectors.cases:
        lines += _module(case)
    return {f"{vectors.layer}.rs": ("\n".join(lines) + "\n").encode()}, {}


def _module(case: Case) -> Iterator[str]:
    yield f"/// {case.why}"
    yield "#[allow(dead_code, clippy::all)]"
    yield f"pub mod {case.name.replace('-', '_')} {{"
    yield f'    pub const OPTIONS: &str = r#"{json.dumps(options_of(case))}"#;'
    tolerance = tolerance_of(case)
    for name, payload in tensors_of(case).items():
        word = name.replace(".", "_").upper()
        kind = TYPES[payload.dtype]
        shape = ", ".join(map(str, payload.shape))
        values = [_literal(number, kind) for number in numbers(payload)]
        yield f"    pub const {word}_SHAPE: [usize; {len(payload.shape)}] = [{shape}];"
        yield f"    pub static {word}: [{kind}; {len(values)}] = [{', '.join(values)}];"
        if name in tolerance:
            atol, rtol = (float(tolerance[name][part]) for part in ("atol", "rtol"))
            yield f"    pub const {word}_ATOL: f64 = {atol!r};"
            yield f"    pub const {word}_RTOL: f64 = {rtol!r};"
    yield "}"
    yield ""


def _literal(number: float, kind: str) -> str:
    if kind[0] != "f":
        return str(number)
    if math.isnan(number):
        return f"{kind}::NAN"
    if math.isinf(number):
        return f"{kind}::{'INFINITY' if number > 0 else 'NEG_INFINITY'}"
    return repr(number)
