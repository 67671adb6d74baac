"""What a layer is: everything that routes, documents and tests derive from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from pydantic import BaseModel

from app.errors import InvalidRequest
from app.layers._accuracy import Accuracy
from app.layers._cases import Case, common_cases
from app.schemas.answers import Advice, AxisCard, WindowCard
from app.schemas.options import CONVENTIONS, Convention, LayerOptions
from app.schemas.tensors import FLOATS, Shape, Shapes

Tensors = Mapping[str, torch.Tensor]
Presets = Mapping[Convention, Mapping[str, Any]]
ANY_RANK = tuple(range(9))
MAX_WINDOWS = 4096
"""How many windows of an output an explanation describes, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Port:
    """A tensor that goes into a layer or comes out of it.

    A `mapped` port is laid out like the input: batch, channels, spatial axes; the request's
    `layout` and `batched` apply to it. Others are vectors such as a weight a channel. An input
    left out is filled with `fill`, if it has one. Output names are paths in the answer. A port of
    `many` tensors is a list: the tensors of `inputs` are named `inputs.0`, `inputs.1`. A port with
    a `dtype` of its own does not follow the request's.
    """

    name: str
    axes: str
    ranks: tuple[int, ...]
    required: bool = True
    mapped: bool = False
    differentiable: bool = False
    fill: float | None = None
    many: bool = False
    dtype: str | None = None


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

    `cost` counts elementary operations of the forward pass, each of up to `operation_ns`;
    `overhead_ns` is what it takes beside them where it works piece by piece, and `time_factor` by
    how much both are longer where ties are shared. `workspace` counts elements of working memory
    beyond inputs and outputs, `gradient_workspace` those that gradients take beyond that and the
    gradients themselves. All are exact or from above: `tests/compute/test_cost.py` measures.
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
    """What a layer explains of one run."""

    windows: tuple[WindowCard, ...] | None = None
    windows_truncated: bool | None = None
    advice: tuple[Advice, ...] = ()


def no_notes(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Nothing to explain."""
    return Notes()


def no_parameters(shape: Shape, call: Any) -> Shapes:
    """A layer whose input is all it has."""
    return {}


def presets(**others: Mapping[str, object]) -> Presets:
    """What each convention sets, where that differs from the defaults in the options class.

    A value that is a function is asked for its value in the request's dtype.
    """
    layouts: dict[str, dict[str, object]] = {
        "keras": {"layout": "channels_last"},
        "flax": {"layout": "channels_last"},
    }
    return {name: {**layouts.get(name, {}), **others.get(name, {})} for name in CONVENTIONS}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSpec:
    """One layer. Its functions see tensors with a batch axis and channels first.

    `plan(shapes, options)` checks the shapes of the inputs that were sent, makes the options
    explicit, and knows output shapes and cost in closed form; it raises `InvalidRequest`.
    `run(tensors, plan)` is pure: every input port in, every output of the plan out.
    `explain(tensors, outputs, plan)` describes one run.
    `parameters(input_shape, call)` gives the shapes of the other inputs to a shape request, which
    has the fields of `shape_fields` to say them with.
    `accuracy` says how far each result may be from the exact one.
    A layer of `any_order` gets floats in the memory order they came in, where torch's kernels for
    it are as right, and faster; others get contiguous tensors.
    A layer of `matrix_product` gets its tensors where torch's own memory would begin.
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
    accuracy: Accuracy
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
        """Whether the layer takes a list of inputs and gives a list of outputs."""
        return self.inputs[0].many

    @property
    def result(self) -> str:
        """The name of the output, or the list of outputs, that gradients come in for."""
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
    """A port of (N, C, spatial axes)."""
    axes = f"(N, C, {SPATIAL_NAMES[dims]})"
    return Port(name, axes, (dims + 2,), required, mapped=True, differentiable=differentiable)


def check_not_empty(shape: Shape, first_axis: int = 1) -> None:
    """Refuse channels or spatial axes of length zero; only the batch may be empty."""
    if 0 in shape[first_axis:]:
        detail = f"input: all axes after the batch axis must be non-empty; got shape {list(shape)}"
        raise InvalidRequest.at("input", "empty-axis", detail)
