"""The fields common to all requests; a layer's request adds its options and tensors."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.options import Flag

Encoding = Literal["nested", "flat", "base64"]
Lengths = tuple[Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)], ...]


class Call(BaseModel):
    """The common fields of every request."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    batched: Flag = True
    """Whether axis 0 is the batch axis; false: the input has no batch axis."""


class ComputeCall(Call):
    """The common fields of a compute request."""

    dtype: str = "float32"
    """The dtype of the tensors; half types are computed in float32."""
    compute_dtype: Literal["float32", "float64"] | None = None
    """Another float dtype to compute in; results are rounded to `dtype`."""
    encoding: Encoding = "nested"
    """The form of tensors in a JSON answer."""
    explain: Flag = False
    """Whether to add `explanation`: the formula of each axis, the windows, and advice."""
