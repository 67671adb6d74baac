"""The fields that every request has, whatever the layer; its options and tensors join them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.options import Flag

Encoding = Literal["nested", "flat", "base64"]
Lengths = tuple[Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)], ...]


class Call(BaseModel):
    """The common fields of every request."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    batched: Flag = True
    """Whether axis 0 is the batch; false: the input has no batch axis."""


class ComputeCall(Call):
    """The common fields of a compute request."""

    dtype: str = "float32"
    """The dtype in which the layer computes and answers."""
    compute_dtype: Literal["float32", "float64"] | None = None
    """Another float dtype to compute in; results are rounded to `dtype`."""
    encoding: Encoding = "nested"
    """The form of every tensor in a JSON answer."""
    explain: Flag = False
    """Adds `explanation`: the formula of each axis, the windows, advice."""
