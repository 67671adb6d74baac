"""What a layer is: everything that routes, documents and tests derive from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from app.errors import InvalidRequest
from app.schemas.answers import Advice, AxisCard, WindowCard
from app.schemas.options import LayerOptions
from app.schemas.tensors import FLOATS, Shape, Shapes

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that goes into a layer or comes out of it.

    A `mapped` port is laid out like the input: batch, channels, spatial axes; the request's
    `layout` and `batched` apply to it. Others are vectors such as a weight a channel. An input
    left out is filled with `fill`, if it has one. Output names are paths in the answer.
    """

    name: str
    axes: str
    ranks: tuple[int, ...]
    required: bool = True
    mapped: bool = False
    differentiable: bool = False
    fill: float | None = None


class Axis(Protocol):
    """How one spatial axis of a pooling output comes about."""

    @property
    def output(self) -> int:
        """Length of the output axis."""

    def card(self) -> AxisCard:
        """The axis explained."""

    def taps(self, index: int) -> range:
        """Input coordinates that output `index` looks at; those outside are padding."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known of a call before its data: a layer's shape and cost rules at work.

    `cost` counts elementary operations of the forward pass; `workspace` counts elements of
    working memory beyond inputs and outputs; both are exact or from above.
    """

    options: Any
    inputs: Shapes
    outputs: Shapes
    cost: int
    workspace: int = 0
    axes: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Notes:
    """What a layer explains of one run."""

    windows: tuple[WindowCard, ...] | None = None
    windows_truncated: bool | None = None
    advice: tuple[Advice, ...] = ()


def no_notes(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Nothing to explain."""
    return Notes()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSpec:
    """One layer. Its functions see tensors with a batch axis and channels first.

    `plan(shapes, options)` checks the shapes of the inputs that were sent, makes the options
    explicit, and knows output shapes and cost in closed form; it raises `InvalidRequest`.
    `run(tensors, plan)` is pure: every input port in, every output port of the plan out.
    `explain(tensors, outputs, plan)` describes one run.
    """

    name: str
    family: str
    summary: str
    options: type[LayerOptions]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    plan: Callable[[Shapes, Any], Plan]
    run: Callable[[Tensors, Plan], Tensors]
    explain: Callable[[Tensors, Tensors, Plan], Notes] = no_notes
    dtypes: tuple[str, ...] = FLOATS
    example: Mapping[str, object] = field(default_factory=dict)


SPATIAL = {1: "one spatial axis", 2: "two spatial axes", 3: "three spatial axes"}
SPATIAL_NAMES = {1: "L", 2: "H, W", 3: "D, H, W"}


def feature_map(name: str, dims: int, *, differentiable: bool = False) -> Port:
    """A port of (N, C, spatial axes)."""
    axes = f"(N, C, {SPATIAL_NAMES[dims]})"
    return Port(name, axes, (dims + 2,), mapped=True, differentiable=differentiable)


def check_not_empty(shape: Shape, first_axis: int = 1) -> None:
    """Refuse channels or spatial axes of length zero; only the batch may be empty."""
    if 0 in shape[first_axis:]:
        detail = f"input: expected axes of length 1 and more behind the batch; got {list(shape)}"
        raise InvalidRequest.at("input", "empty-axis", detail)
