"""Folding a batch norm into the convolution before it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.calls import Encoding
from app.schemas.options import Convention
from app.schemas.tensors import AnswerTensor


class FoldCall(BaseModel):
    """A convolution and the batch norm after it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    conv: Any
    """`weight`, `bias` if there is one, and options of the convolution, of which folding needs
    `groups` and the layout of the weight. The rank of the weight says how many spatial axes."""
    batch_norm: Any
    """`running_mean` and `running_var`, `weight` and `bias` if it has them, and `eps`."""
    convention: Convention = "torch"
    """The convention of the parts that do not have their own."""
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = "float32"
    """The dtype of all tensors. Folding is computed in float64 and rounded once."""
    encoding: Encoding = "nested"
    """The form of tensors in a JSON answer."""


class FoldAnswer(BaseModel):
    """A convolution that does what the pair does with the running statistics."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    dtype: str
    weight: AnswerTensor
    """In the layout in which the weight was sent."""
    bias: AnswerTensor
    max_abs_error: float | Literal["NaN", "Infinity"] = Field()
    """Largest difference between the folded convolution and the pair, both in float64, on windows
    of standard normal values from a fixed seed. It is what rounding the folded weight and bias to
    `dtype` costs."""
