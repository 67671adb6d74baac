"""A decoded request, and the protocol's names for dtypes."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.schemas.tensors import TensorPayload

NAMES = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "int8": "INT8",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
}
DTYPE_OF = {datatype: dtype for dtype, datatype in NAMES.items()}
FOREIGN = ("BOOL", "INT16", "UINT16", "UINT32", "UINT64", "BYTES")
"""Datatypes of the protocol that no layer accepts. Errors repeat these, but no unknown word."""


@dataclass(frozen=True, slots=True)
class Output:
    """A requested output tensor, as bytes or as text."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class Inference:
    """An inference request: its tensors, the outputs it requests, and its parameters.

    `outputs` is None if the request leaves the choice to the model.
    """

    id: str | None
    inputs: Mapping[str, TensorPayload]
    outputs: tuple[Output, ...] | None
    parameters: Mapping[str, object]
    binary_default: bool

    @property
    def wants_text(self) -> bool:
        """Whether any tensor of the answer is requested as text."""
        if self.outputs is None:
            return not self.binary_default
        return not all(output.binary for output in self.outputs)
