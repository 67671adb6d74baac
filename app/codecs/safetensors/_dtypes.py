"""The one table of safetensors' names for dtypes."""

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
