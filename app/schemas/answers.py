"""What the service answers. Tensors stand as `AnswerTensor`, whatever their encoding."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.tensors import AnswerTensor


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AxisCard(_Answer):
    """How one spatial axis of the output came about; lengths in elements."""

    input: int
    kernel: int
    """The window's taps; of an adaptive layer, those of its largest window."""
    effective_kernel: int
    """The window's extent with its dilation."""
    padding: tuple[int, int]
    """Before and after."""
    stride: int | None = None
    """Distance between windows; absent where an adaptive layer varies it."""
    formula: str
    output: int
    dropped_window: bool
    """Whether ceil mode's extra window was dropped."""
    dropped_window_reason: str | None = None


class WindowCard(_Answer):
    """One pooling window, which makes one output element."""

    output: tuple[int, ...]
    """Index of the output element, in the output's own layout."""
    region: tuple[tuple[int, int], ...]
    """[start, end) along each spatial axis, in input coordinates: below 0 is padding."""
    padding_taps: int
    divisor: int | None = None
    argmax: tuple[int, ...] | None = None
    """Input coordinates, an axis each, of the element that is the maximum."""
    ties: int | None = None
    """How many elements equal the maximum; 1 is no tie."""


class Advice(_Answer):
    """A remark on the request, with a stable code."""

    code: str
    message: str
    suggestion: str


class Explanation(_Answer):
    axes: tuple[AxisCard, ...]
    windows: tuple[WindowCard, ...] | None = None
    windows_truncated: bool | None = None
    advice: tuple[Advice, ...]


class RunningStats(_Answer):
    """The updated running statistics: send them with the next request."""

    mean: AnswerTensor
    var: AnswerTensor
    num_batches_tracked: int


class BatchStats(_Answer):
    """The statistics of this batch, a channel each."""

    mean: AnswerTensor
    var: AnswerTensor
    """Biased: divided by the number of values."""
    var_unbiased: AnswerTensor
    inv_std: AnswerTensor


class Replica(_Answer):
    """What a replica would have computed from its own batch alone."""

    output: AnswerTensor
    batch_stats: BatchStats


class LayerAnswer(_Answer):
    """The result of a layer. A part that does not apply, or was not asked for, is absent."""

    layer: str
    dtype: str
    device: str
    output: AnswerTensor | None = None
    output_shape: tuple[int, ...] | None = None
    outputs: tuple[AnswerTensor, ...] | None = None
    """Of a layer with a list of inputs: an output each, in their order."""
    output_shapes: tuple[tuple[int, ...], ...] | None = None
    gradients: dict[str, AnswerTensor | tuple[AnswerTensor, ...]] | None = None
    running_stats: RunningStats | None = None
    batch_stats: BatchStats | None = None
    statistics: dict[str, AnswerTensor] | None = None
    """`mean` and `inv_std` of each group that is normalised alone; of RMS norm `inv_rms`."""
    indices: AnswerTensor | None = None
    replicas: tuple[Replica, ...] | None = None
    options: dict[str, Any]
    """Every option with the value that was used."""
    explanation: Explanation | None = None


class ShapeAnswer(_Answer):
    """The output shape and how it came about, computed without data."""

    output_shape: tuple[int, ...] | None = None
    output_shapes: tuple[tuple[int, ...], ...] | None = None
    """Of a layer with a list of inputs."""
    axes: tuple[AxisCard, ...]
    conventions: dict[str, tuple[int, ...] | tuple[tuple[int, ...], ...] | None]
    """The shape with each convention's defaults, in the request's layout; null: refused there."""
    output_elements: int
    multiply_adds: int
    """Elementary operations of the forward pass."""


class PortCard(_Answer):
    name: str
    axes: str
    ranks: tuple[int, ...]
    required: bool


class LayerCard(_Answer):
    """What the catalogue says of a layer."""

    name: str
    family: str
    summary: str
    inputs: tuple[PortCard, ...]
    outputs: tuple[PortCard, ...]
    parameters: dict[str, Any]
    """JSON Schema of the options."""
    example: dict[str, Any]
    """A request body that works as it is."""


class Catalogue(_Answer):
    layers: tuple[LayerCard, ...]


class DeviceCard(_Answer):
    type: str
    name: str


class Info(_Answer):
    """The process: versions, device, and the limits in force."""

    name: str
    version: str
    torch: str
    device: DeviceCard
    workers: int
    threads: int
    conventions: tuple[str, ...]
    dtypes: tuple[str, ...]
    limits: dict[str, int]


class ProblemField(_Answer):
    pointer: str
    code: str
    detail: str


class Problem(_Answer):
    """An error (RFC 9457)."""

    type: str
    """Path of a page on this service that explains this kind of error."""
    title: str
    status: int
    detail: str
    request_id: str
    errors: tuple[ProblemField, ...] | None = Field(None, max_length=16)


class Health(_Answer):
    status: str
