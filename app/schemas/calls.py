"""The fields that every request has, whatever the layer."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.tensors import TensorOrOnes

Convention = Literal["torch"]
Layout = Literal["channels_first", "channels_last"]
Encoding = Literal["nested", "flat"]
Flag = Annotated[bool, Field(strict=True)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    convention: Convention = "torch"
    """Whose defaults to take where frameworks disagree; an option given here wins."""
    layout: Layout = "channels_first"
    """Where the channel axis of input, output, indices and gradients stands."""
    batched: Flag = True
    """Whether axis 0 is the batch; false: the input has no batch axis."""


class ComputeCall(_Request):
    """The common fields of a compute request."""

    grad_output: TensorOrOnes | None = None
    """Gradient of the loss in the output: a tensor of its shape, or "ones"; absent: none."""
    dtype: str = "float32"
    """The dtype in which the layer computes and answers."""
    compute_dtype: Literal["float32", "float64"] | None = None
    """Another float dtype to compute in; results are rounded to `dtype`."""
    encoding: Encoding = "nested"
    """The form of every tensor in the answer."""
    explain: Flag = False
    """Adds `explanation`: the formula of each axis, the windows, advice."""


class ShapeCall(_Request):
    """The common fields of a shape request."""

    input_shape: tuple[Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)], ...]
    """Shape of the input, batch axis included unless `batched` is false."""
