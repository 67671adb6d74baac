"""Shapes, parameter counts, costs, and receptive fields of a chain, without any tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.compute._names import with_port
from app.compute._tensors import inward_shape
from app.compute.chain import located
from app.compute.shapes import output_shapes, plan_without_data
from app.errors import InvalidRequest
from app.layers import LayerSpec, Plan, options_of
from app.schemas.calls import Call
from app.schemas.options import Layout
from app.schemas.tensors import Shape

ENDS = frozenset(("adaptive_pool", "global_pool"))
"""Families whose windows depend on the input's length: each output can see the whole input."""


@dataclass(frozen=True, slots=True)
class Field:
    """The receptive field along one spatial axis, in elements of the chain's input.

    `start` is where that of the first position starts. `stride` is the distance between those of
    neighboring positions, or None where all positions have the same: the whole input.

    Source: Araujo, Norris, and Sim, "Computing receptive fields of convolutional neural networks",
    Distill 2019, doi 10.23915/distill.00021.
    """

    size: int = 1
    start: int = 0
    stride: int | None = 1

    def through(self, axis: Any) -> "Field":
        """The receptive field behind another sliding window."""
        if self.stride is None:
            return self
        return Field(
            self.size + (axis.effective - 1) * self.stride,
            self.start - axis.before * self.stride,
            self.stride * axis.stride,
        )


Fields = tuple[Field, ...] | None
"""One per spatial axis; None where layers disagree about which axes these are."""


def chain_shapes(
    layers: Sequence[tuple[LayerSpec, Call, bool]], input_shape: Shape, max_extent: int
) -> dict[str, Any]:
    """The answer to a chain's shape request. Each call's own `input_shape` is replaced; the flags
    say whether a layer has a bias.

    Raises:
        InvalidRequest: shapes or options that do not fit.

    """
    shape, entries = input_shape, []
    fields: Fields = None
    tracker = _Tracker()
    for index, (spec, sent, has_bias) in enumerate(layers):
        call: Any = sent.model_copy(update={"input_shape": shape})
        try:
            options = options_of(spec, call)
            plan = plan_without_data(spec, call, options, max_extent)
        except InvalidRequest as error:
            raise _located(error, index) from None
        fields = tracker.through(spec, plan, shape, batched=call.batched)
        shape = output_shapes(spec, call, plan)
        entries.append(_entry(spec, plan, shape, fields, has_bias=has_bias))
    return {
        "output_shape": shape,
        **{name: sum(entry[name] for entry in entries) for name in ("parameters", "multiply_adds")},
        "layers": entries,
    }


class _Tracker:
    """Follows the receptive field through the layers of one chain."""

    def __init__(self) -> None:
        self._read_as: tuple[Layout, bool] | None = None
        self._lengths: Shape = ()
        self._fields: Fields = None

    def through(self, spec: LayerSpec, plan: Plan, shape: Shape, *, batched: bool) -> Fields:
        """The receptive field behind a layer with an input of this shape."""
        read_as = (plan.options.layout, batched)
        is_told = spec.inputs[0].mapped
        if self._read_as is None:
            # So far, no layer has changed the shape: they all take any axes.
            self._lengths = inward_shape(shape, *read_as)[2:]
            self._fields = (Field(),) * len(self._lengths)
            self._read_as = read_as if is_told else None
        if not is_told or self._fields is None:
            return self._fields
        if read_as != self._read_as:
            self._fields = None
        elif spec.family in ENDS:
            self._fields = tuple(Field(length, 0, None) for length in self._lengths)
        elif plan.axes:
            pairs = zip(self._fields, plan.axes, strict=True)
            self._fields = tuple(field.through(axis) for field, axis in pairs)
        return self._fields


def _entry(
    spec: LayerSpec, plan: Plan, shape: Shape, fields: Fields, *, has_bias: bool
) -> dict[str, Any]:
    """A layer's part of the answer."""
    parameters = {
        name: of
        for (name, of), port in with_port(spec.inputs, plan.inputs)
        if port.differentiable and name != "input" and (has_bias or name != "bias")
    }
    entry: dict[str, Any] = {
        "layer": spec.name,
        "output_shape": shape,
        "parameters": sum(map(math.prod, parameters.values())),
        "parameter_shapes": parameters,
        "multiply_adds": plan.cost,
    }
    if fields is not None:
        entry["receptive_field"] = [field.size for field in fields]
        entry["receptive_field_start"] = [field.start for field in fields]
        if all(field.stride is not None for field in fields):
            entry["cumulative_stride"] = [field.stride for field in fields]
    entry["axes"] = [axis.card().model_dump(exclude_none=True) for axis in plan.axes]
    return entry


def _located(error: InvalidRequest, index: int) -> InvalidRequest:
    moved = located(error, index)
    moved.errors = tuple(
        replace(found, pointer="#/input_shape") if found.pointer == "#/input" else found
        for found in moved.errors
    )
    return moved
