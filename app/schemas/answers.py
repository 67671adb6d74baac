"""Models of the service's answers. A tensor is an `AnswerTensor`, whatever its encoding."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.tensors import AnswerTensor


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AxisCard(_Answer):
    """How the length of one spatial axis of the output is computed; lengths in elements."""

    input: int
    kernel: int
    """Elements of the window; for an adaptive layer, of its largest window."""
    effective_kernel: int
    """Extent of the window, dilation included."""
    padding: tuple[int, int]
    """Before and after."""
    stride: int | None = None
    """Distance between windows; absent for adaptive layers if it varies."""
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
    """Divisor of the window's sum; absent if none of its taps counts, which makes it 0."""
    argmax: tuple[int, ...] | None = None
    """Input coordinates of the maximum, one per axis; absent in a window with only padding."""
    ties: int | None = None
    """Number of elements equal to the maximum; 1 means no tie, 0 a window with only padding."""


class Advice(_Answer):
    """A remark on the request, with a stable code."""

    code: str
    message: str
    suggestion: str

    more: str = Field(default_factory=lambda advice: f"docs/advice.md#{advice['code']}")
    """The section of the documentation on this advice."""


class Explanation(_Answer):
    axes: tuple[AxisCard, ...]
    windows: tuple[WindowCard, ...] | None = None
    windows_truncated: bool | None = None
    advice: tuple[Advice, ...]


class RunningStats(_Answer):
    """The updated running statistics, to send with the next request."""

    mean: AnswerTensor
    var: AnswerTensor
    num_batches_tracked: int


class BatchStats(_Answer):
    """The statistics of the batch, one value per channel."""

    mean: AnswerTensor
    var: AnswerTensor
    """Biased: divided by the number of values."""
    var_unbiased: AnswerTensor
    inv_std: AnswerTensor


class Replica(_Answer):
    """What the replica would compute from its own batch alone."""

    output: AnswerTensor
    batch_stats: BatchStats


class LayerAnswer(_Answer):
    """The result of a layer. Parts that do not apply or were not requested are absent."""

    layer: str
    dtype: str
    device: str
    output: AnswerTensor | None = None
    output_shape: tuple[int, ...] | None = None
    outputs: tuple[AnswerTensor, ...] | None = None
    """For layers with a list of inputs: the outputs, in the same order."""
    output_shapes: tuple[tuple[int, ...], ...] | None = None
    gradients: dict[str, AnswerTensor | tuple[AnswerTensor, ...]] | None = None
    running_stats: RunningStats | None = None
    batch_stats: BatchStats | None = None
    statistics: dict[str, AnswerTensor] | None = None
    """`mean` and `inv_std` of each normalized group; for RMS norm, `inv_rms`."""
    indices: AnswerTensor | None = None
    replicas: tuple[Replica, ...] | None = None
    options: dict[str, Any]
    """All options, with the values that were used."""
    explanation: Explanation | None = None


class ShapeAnswer(_Answer):
    """The output shape and how it is computed, without data."""

    output_shape: tuple[int, ...] | None = None
    output_shapes: tuple[tuple[int, ...], ...] | None = None
    """For layers with a list of inputs."""
    axes: tuple[AxisCard, ...]
    conventions: dict[str, tuple[int, ...] | tuple[tuple[int, ...], ...] | None]
    """The shape with each convention's defaults, in the request's layout; null: refused."""
    output_elements: int
    multiply_adds: int
    """Elementary operations of the forward pass."""


class PortCard(_Answer):
    name: str
    axes: str
    ranks: tuple[int, ...]
    required: bool


class LayerCard(_Answer):
    """A layer's entry in the catalog."""

    name: str
    family: str
    summary: str
    inputs: tuple[PortCard, ...]
    outputs: tuple[PortCard, ...]
    parameters: dict[str, Any]
    """JSON Schema of the options."""
    example: dict[str, Any]
    """A working request body."""


class Catalogue(_Answer):
    layers: tuple[LayerCard, ...]


class DeviceCard(_Answer):
    type: str
    name: str


class Info(_Answer):
    """Versions, device and the limits in force."""

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
    """Path of a page on this service that explains the error."""
    title: str
    status: int
    detail: str
    request_id: str
    errors: tuple[ProblemField, ...] | None = Field(None, max_length=16)


class Health(_Answer):
    status: str
