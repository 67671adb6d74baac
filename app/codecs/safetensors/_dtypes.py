"""safetensors' names for dtypes, and the names that no layer accepts."""

NAMES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "int8": "I8",
    "uint8": "U8",
    "int32": "I32",
    "int64": "I64",
}
DTYPE_OF = {code: dtype for dtype, code in NAMES.items()}
FOREIGN = (
    "BOOL", "I16", "U16", "U32", "U64", "C64",
    "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ",
)  # fmt: skip
"""Dtypes of the format that no layer accepts. Errors repeat these, but no unknown word."""
