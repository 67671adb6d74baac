"""What a layer is: the source from which routes, documents, and tests are derived."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from pydantic import BaseModel

from app.errors import InvalidRequest
from app.layers._accuracy import Accuracy
from app.layers._cases import Case, common_cases
from app.layers._terms import Sums, Terms, selected
from app.schemas.answers import Advice, AxisCard, WindowCard
from app.schemas.options import CONVENTIONS, Convention, LayerOptions
from app.schemas.tensors import FLOATS, Shape, Shapes

Tensors = Mapping[str, torch.Tensor]
Presets = Mapping[Convention, Mapping[str, Any]]
ANY_RANK = tuple(range(9))
BATCH_AND_CHANNELS = frozenset({"batch", "channels"})
MAX_WINDOWS = 4096
"""Maximum number of windows that an explanation describes."""


@dataclass(frozen=True, slots=True, eq=False)
class Port:
    """An input or output tensor of a layer.

    A `mapped` port is laid out like the input (batch, channels, spatial axes), and the request's
    `layout` and `batched` apply to it. Other ports are vectors, such as one weight per channel. An
    omitted input is filled with `fill`, if that is set; a function is called with the options.
    Output names are paths in the answer. A
    `many` port is a list of tensors: those of `inputs` are named `inputs.0`, `inputs.1`. A port
    with its own `dtype` does not follow the request's.
    """

    name: str
    axes: str
    ranks: tuple[int, ...]
    required: bool = True
    mapped: bool = False
    differentiable: bool = False
    fill: float | Callable[[Any], float] | None = None
    many: bool = False
    dtype: str | None = None


class Axis(Protocol):
    """How one spatial axis of a pooling output is derived."""

    @property
    def output(self) -> int:
        """Length of the output axis."""

    def card(self) -> AxisCard:
        """The explanation of the axis."""

    def taps(self, index: int) -> range:
        """Input coordinates that output `index` reads; those outside the input are padding."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything known about a call before its data: the result of a layer's shape and cost rules.

    `cost` counts elementary operations of the forward pass, each taking up to `operation_ns`.
    `overhead_ns` is additional time for working piece by piece, and `time_factor` multiplies the
    time where ties share a gradient. `workspace` counts elements of working memory in addition to
    inputs and outputs; `gradient_workspace` counts those that gradients need on top of that and of
    the gradients themselves. All are exact or upper bounds, which `tests/compute/test_cost.py`
    checks by measurement.
    """

    options: Any
    inputs: Shapes
    outputs: Shapes
    cost: int
    workspace: int = 0
    axes: tuple[Any, ...] = ()
    operation_ns: float = 2.0
    overhead_ns: float = 0.0
    gradient_workspace: int = 0
    time_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Notes:
    """A layer's explanation of one run."""

    windows: tuple[WindowCard, ...] | None = None
    windows_truncated: bool | None = None
    advice: tuple[Advice, ...] = ()


def no_notes(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Nothing to explain."""
    return Notes()


def no_parameters(shape: Shape, call: Any) -> Shapes:
    """The `parameters` of a layer that has no inputs besides `input`."""
    return {}


def presets(**others: Mapping[str, object]) -> Presets:
    """Option values of each convention that differ from the defaults in the options class.

    A value that is a function is called with the request's dtype.
    """
    layouts: dict[str, dict[str, object]] = {
        "keras": {"layout": "channels_last"},
        "flax": {"layout": "channels_last"},
    }
    return {name: {**layouts.get(name, {}), **others.get(name, {})} for name in CONVENTIONS}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSpec:
    """One layer. Its functions receive tensors with a batch axis and channels first.

    `plan(shapes, options)` checks the shapes of the inputs that were sent, makes the options
    explicit, and computes output shapes and cost in closed form; it raises `InvalidRequest`.
    `run(tensors, plan)` is pure: it takes every input port and returns every output of the plan.
    `explain(tensors, outputs, plan)` describes one run.
    `parameters(input_shape, call)` returns the shapes of the other inputs for a shape request with
    explicit options, which can specify them with the fields of `shape_fields`.
    `accuracy` says how far each result may be from the exact one.
    `terms(sums)` tells the length and size of the longest sum in each result; one that is left out
    sums nothing.
    An `any_order` layer gets floats in the memory order in which they were sent, because torch's
    kernels for that order are equally correct, and faster; others get contiguous tensors.
    `independent` names the axes that can be cut without changing what is left: `batch`, `channels`,
    or `rows`, the first of the axes that are not normalized.
    A `matrix_product` layer gets its tensors aligned like memory that torch allocates.
    `own_cases` are requests that set each of the layer's own options; the first has channels first
    and a batch axis. `cases` adds those that every layer has.
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
    presets: Presets = field(default_factory=presets)
    parameters: Callable[[Shape, Any], Shapes] = no_parameters
    shape_fields: type[BaseModel] | None = None
    dtypes: tuple[str, ...] = FLOATS
    matrix_product: bool = False
    any_order: bool = False
    independent: frozenset[str] = frozenset()
    accuracy: Accuracy
    terms: Callable[[Sums], Mapping[str, Terms]] = selected
    formula: str = ""
    differences: tuple[str, ...] = ()
    example: Mapping[str, object] = field(default_factory=dict)
    own_cases: tuple[Case, ...] = ()

    @property
    def cases(self) -> tuple[Case, ...]:
        """Valid requests that cover every option, the example first."""
        base = self.own_cases[0].body if self.own_cases else self.example
        mapped = {port.name: port.many for port in self.inputs if port.mapped}
        if mapped:
            mapped[self.gradient] = self.many
        own = (Case("example", self.example), *self.own_cases)
        return (*own, *common_cases(base, mapped, self.presets))

    @property
    def many(self) -> bool:
        """Whether the layer takes a list of inputs and returns a list of outputs."""
        return self.inputs[0].many

    @property
    def result(self) -> str:
        """The name of the output, or of the list of outputs, whose gradient a request can send."""
        return self.outputs[0].name

    def described_windows(self, plan: Plan) -> int:
        """How many windows an explanation of the plan describes."""
        if not plan.axes or self.explain is no_notes:
            return 0
        return min(math.prod(plan.outputs["output"]), MAX_WINDOWS)

    @property
    def gradient(self) -> str:
        """The request's field for that gradient."""
        return "grad_outputs" if self.many else "grad_output"


SPATIAL = {1: "one spatial axis", 2: "two spatial axes", 3: "three spatial axes"}
SPATIAL_NAMES = {1: "L", 2: "H, W", 3: "D, H, W"}


def feature_map(
    name: str, dims: int, *, required: bool = True, differentiable: bool = False
) -> Port:
    """A port for a tensor of shape (N, C, spatial axes)."""
    axes = f"(N, C, {SPATIAL_NAMES[dims]})"
    return Port(name, axes, (dims + 2,), required, mapped=True, differentiable=differentiable)


def check_not_empty(shape: Shape, first_axis: int = 1) -> None:
    """Refuse channel or spatial axes of length zero; only the batch may be empty."""
    if 0 in shape[first_axis:]:
        detail = f"input: all axes after the batch axis must be non-empty; got shape {list(shape)}"
        raise InvalidRequest.at("input", "empty-axis", detail)
