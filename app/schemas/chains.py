"""Chains of layers in one request, and their answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app.schemas.answers import Advice, AxisCard, BatchStats, RunningStats
from app.schemas.calls import Call, ComputeCall, Lengths
from app.schemas.options import Convention, Flag, Layout
from app.schemas.tensors import AnswerTensor, Tensor, TensorOrOnes

DTypeName = Literal["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64"]
INHERITED = ("convention", "layout", "batched", "explain")
"""Fields at the top of a chain that apply to each layer without a value of its own."""
_Index = Annotated[int, Field(strict=True, ge=0)]


def _form(value: object) -> str:
    return "list" if isinstance(value, list | tuple) else "flag"


Kept = Annotated[
    Annotated[Flag, Tag("flag")] | Annotated[tuple[_Index, ...], Tag("list")],
    Discriminator(_form),
]
Layers = Annotated[tuple[Any, ...], Field(min_length=1)]


class _Chain(Call):
    """The fields at the top of every chain."""

    layers: Layers
    """The layers, in order. Each has `layer`, its name, and its own tensors and options."""
    convention: Convention = "torch"
    """The convention of layers that do not have their own."""
    layout: Layout = "channels_first"
    """The layout of layers that do not have their own; the default is that of the convention."""


class ChainCall(_Chain, ComputeCall):
    """A chain with data."""

    input: Tensor
    """Input of the first layer; the input of each other layer is the output of the one before."""
    grad_output: TensorOrOnes | None = None
    """Gradient of the loss with respect to the output of the last layer: a tensor of its shape, or
    "ones". Without it, no gradients are computed."""
    dtype: DTypeName = "float32"
    """The dtype of all tensors; values are rounded to it between layers."""
    return_intermediate: Kept = False
    """Whether to return the output of every layer, or the indices of the layers whose output to
    return."""


class ShapeChainCall(_Chain):
    """A chain without data."""

    input_shape: Lengths
    """Shape of the input, including the batch axis unless `batched` is false."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PlacementAdvice(Advice):
    """A remark on the order of layers."""

    layers: tuple[int, ...]
    """Indices of the layers it is about."""


class ChainedLayer(_Answer):
    """The result of one layer. Parts that do not apply or were not requested are absent."""

    layer: str
    output_shape: tuple[int, ...]
    output: AnswerTensor | None = None
    """Only if `return_intermediate` asks for it."""
    indices: AnswerTensor | None = None
    running_stats: RunningStats | None = None
    batch_stats: BatchStats | None = None
    statistics: dict[str, AnswerTensor] | None = None
    """`mean` and `inv_std` of each normalized group; for RMS norm, `inv_rms`."""
    gradients: dict[str, AnswerTensor] | None = None
    """Gradients of the layer's parameters."""
    options: dict[str, Any]
    """All options, with the values that were used."""
    axes: tuple[AxisCard, ...] | None = None
    advice: tuple[Advice, ...] | None = None


class ChainAnswer(_Answer):
    """The result of a chain."""

    dtype: str
    device: str
    output: AnswerTensor
    output_shape: tuple[int, ...]
    gradients: dict[str, AnswerTensor] | None = None
    """The gradient of `input`."""
    layers: tuple[ChainedLayer, ...]
    placement: tuple[PlacementAdvice, ...] | None = None
    """Advice on the order of the layers; with `explain` only."""


class LayerShape(_Answer):
    """What is known about one layer of a chain from shapes alone.

    The receptive field of a position in the layer's output is the part of the chain's input that
    it depends on through windows: one length per spatial axis. It is the whole input after a
    global or adaptive layer, and absent after a layer in another layout than the ones before.
    """

    layer: str
    output_shape: tuple[int, ...]
    parameters: int
    """Number of trainable values."""
    parameter_shapes: dict[str, tuple[int, ...]]
    multiply_adds: int
    """Elementary operations of the forward pass."""
    receptive_field: tuple[int, ...] | None = None
    receptive_field_start: tuple[int, ...] | None = None
    """Coordinates in the input where the receptive field of the first output position starts;
    those below 0 are in the padding."""
    cumulative_stride: tuple[int, ...] | None = None
    """Distance in the input between the receptive fields of neighboring output positions; absent
    where the receptive field is the whole input."""
    axes: tuple[AxisCard, ...]


class ChainShapeAnswer(_Answer):
    """The shapes of a chain, and its totals."""

    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    layers: tuple[LayerShape, ...]
