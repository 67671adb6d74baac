"""Faults of max pooling: what wins a window, and how its position is counted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from app.faults._axes import along, exact, extent, firsts, kept, mirrored, starts, with_axes
from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._maxima import (
    answer,
    coordinates,
    image,
    is_max,
    lowest,
    maxima,
    over_padded,
    position,
    room,
    source,
    taken,
    without_nan,
)
from app.layers import LayerSpec, Plan, Tensors
from app.layers._windows import SlidingAxis

Layer = Callable[[LayerSpec], LayerSpec]
SLIDING = frozenset({"max_pool"})
INDEXED = SLIDING | {"adaptive_pool"}
ALL = INDEXED | {"global_pool"}


def _is_empty(plan: Plan) -> bool:
    return 0 in plan.outputs["output"]


def zero_padded(spec: LayerSpec) -> LayerSpec:
    """Zeros as padding, which can win, and nothing in ceil mode's overhang. The index of a zero
    follows from its coordinates, by the same formula as that of an element.
    """

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        sides = [side for axis in reversed(plan.axes) for side in (axis.before, axis.after)]
        # Ceil mode's overhang lies behind the padding, and has no zeros.
        inner = [exact(kept(axis, input=axis.padded, before=0)) for axis in plan.axes]
        output, at = over_padded(spec, F.pad(x, sides), plan, inner, lowest(x))
        at = [found - axis.before for found, axis in zip(at, plan.axes, strict=True)]
        return answer(output, position(at, x.shape[2:]), x.shape[2:], plan)

    return rebuilt(spec, run, room=room)


def zero_filled(spec: LayerSpec) -> LayerSpec:
    """Zeros in ceil mode's overhang as well as in the padding."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        output, at = over_padded(spec, x, plan, [kept(axis) for axis in plan.axes], 0)
        return answer(output, position(at, x.shape[2:]), x.shape[2:], plan)

    return rebuilt(spec, run, room=room)


def nan_if_first(spec: LayerSpec) -> LayerSpec:
    """A loop of `if x > best` that begins with the window's first element."""
    if not is_max(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        if _is_empty(plan) or not x.is_floating_point():
            return spec.run(tensors, plan)
        lengths = x.shape[2:]
        _, where = maxima(spec, without_nan(x), plan)
        first = [
            f.expand(_windows(plan, x)) for f in along([firsts(a, x.device) for a in plan.axes])
        ]
        begins = position(first, lengths).reshape(where.shape)
        begins = torch.where(where < 0, -1, begins)
        where = torch.where(taken(x.detach(), begins, plan).isnan(), begins, where)
        return answer(taken(x, where, plan), where, lengths, plan)

    return rebuilt(spec, run, room=room)


def lowest_finite(spec: LayerSpec) -> LayerSpec:
    """A loop of `if x > best` that begins with the lowest finite number and the index -1."""
    if not is_max(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        if _is_empty(plan) or not x.is_floating_point():
            return spec.run(tensors, plan)
        compared = without_nan(x)
        output, where = maxima(spec, compared, plan)
        is_empty = where < 0
        where = torch.where(output == -math.inf, -1, where)
        least = torch.finfo(x.dtype).min
        found = taken(compared, where, plan)
        output = torch.where((where < 0) & ~is_empty, least, found)
        return answer(output, where, x.shape[2:], plan)

    return rebuilt(spec, run, room=room)


def tie_last(spec: LayerSpec) -> LayerSpec:
    """A loop of `if x >= best`: the index and the gradient are those of the last maximum."""
    if not is_max(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        if _is_empty(plan):
            return spec.run(tensors, plan)
        spatial = tuple(range(2, x.dim()))
        plain, first = maxima(spec, x, plan)
        flipped = with_axes(
            plan, [mirrored(a) if isinstance(a, SlidingAxis) else a for a in plan.axes]
        )
        _, last = maxima(spec, x.detach().flip(spatial), flipped)
        last = math.prod(x.shape[2:]) - 1 - last.flip(spatial[: last.dim() - 2])
        where = torch.where(plain.isnan() | (first < 0), first, last)
        return answer(taken(source(x, plan), where, plan), where, x.shape[2:], plan)

    return rebuilt(spec, run, room=room)


def tie_column_major(spec: LayerSpec) -> LayerSpec:
    """The index and the gradient are those of the first maximum with the first axis fastest."""
    if not is_max(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        if _is_empty(plan):
            return spec.run(tensors, plan)
        axes = [exact(axis) if isinstance(axis, SlidingAxis) else axis for axis in plan.axes]
        turned = with_axes(plan, axes[::-1])
        shape = plan.outputs["output"]
        order = (0, 1, *range(len(shape) - 1, 1, -1))
        size = getattr(plan.options, "output_size", ())
        turned = replace(
            turned,
            options=turned.options.model_copy(update={"output_size": size[::-1]} if size else {}),
            outputs={**plan.outputs, "output": tuple(shape[axis] for axis in order)},
        )
        across = x.detach().permute(0, 1, *range(x.dim() - 1, 1, -1)).contiguous()
        _, found = maxima(spec, across, turned)
        where = found.permute(order)
        at = coordinates(where, across.shape[2:])[::-1]
        where = torch.where(where < 0, -1, position(at, x.shape[2:]))
        return answer(taken(source(x, plan), where, plan), where, x.shape[2:], plan)

    return rebuilt(spec, run, room=room)


def with_right_indices(layer: Layer) -> Layer:
    """The layer's own indices, with the gradient that `layer` gives."""

    def built(spec: LayerSpec) -> LayerSpec:
        other = layer(spec)
        if other is spec:
            return spec

        def run(tensors: Tensors, plan: Plan) -> Tensors:
            return {**spec.run(tensors, plan), "output": other.run(tensors, plan)["output"]}

        return replace(other, run=run)

    return built


def from_one(spec: LayerSpec) -> LayerSpec:
    """Every index one higher."""
    if not is_max(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        found = spec.run(tensors, plan)
        return {**found, "indices": found["indices"] + 1}

    return replace(spec, run=run)


def index_padded(spec: LayerSpec) -> LayerSpec:
    """Indices in the padded input."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        found, at = _located(spec, tensors, plan)
        where = found["indices"]
        at = [coordinate + axis.before for coordinate, axis in zip(at, plan.axes, strict=True)]
        lengths = [axis.padded for axis in plan.axes]
        where = torch.where(where < 0, -1, position(at, lengths))
        return answer(found["output"], where, lengths, plan)

    return rebuilt(spec, run, room=room)


def index_in_window(spec: LayerSpec) -> LayerSpec:
    """Indices within the window, row-major, whatever their base."""
    if not is_max(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        found, at = _located(spec, tensors, plan)
        return {**found, "indices": torch.where(found["indices"] < 0, -1, _in_window(at, plan))}

    return rebuilt(spec, run, room=room)


def _located(spec: LayerSpec, tensors: Tensors, plan: Plan) -> tuple[Tensors, list[torch.Tensor]]:
    """The layer's answer with indices within planes, and their coordinates."""
    plain = {"index_base": "plane", "storage_order": "row"}
    options = {name: value for name, value in plain.items() if hasattr(plan.options, name)}
    found = spec.run(tensors, replace(plan, options=plan.options.model_copy(update=options)))
    return found, coordinates(found["indices"], plan.inputs["input"][2:])


def _in_window(at: Sequence[torch.Tensor], plan: Plan) -> torch.Tensor:
    """The row-major number of the tap."""
    device = at[0].device
    begins = along([starts(axis, device) for axis in plan.axes])
    taps, lengths = [], []
    for axis, coordinate, begin in zip(plan.axes, at, begins, strict=True):
        if isinstance(axis, SlidingAxis):
            taps.append((coordinate - begin).div(axis.dilation, rounding_mode="floor"))
            lengths.append(torch.tensor(axis.kernel, device=device))
        else:
            taps.append(coordinate - begin)
            ends = torch.arange(1, axis.output + 1, device=device) * axis.input
            lengths.append(-(-ends // max(axis.output, 1)).view(begin.shape) - begin)
    where, *rest = taps
    for tap, length in zip(rest, lengths[1:], strict=True):
        where = where * length + tap
    return where


def _windows(plan: Plan, x: torch.Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *(axis.output for axis in plan.axes))


def _padded(plan: Plan) -> bool:
    return any(axis.before or axis.after for axis in plan.axes)


def _with_indices(plan: Plan) -> bool:
    return bool(getattr(plan.options, "return_indices", False)) and not _is_empty(plan)


def _several(plan: Plan) -> bool:
    """Whether windows have more than one element along more than one axis."""
    return sum(extent(axis) > 1 for axis in plan.axes) > 1


FAULTS = (
    Fault(
        name="zero-padded-maximum",
        families=SLIDING,
        message="You padded with zeros, which win where all elements of a window are negative; "
        "padding must never be the maximum: pad with -Infinity, or skip it.",
        source="https://github.com/pytorch/pytorch/issues/33382",
        layer=zero_padded,
        applies=_padded,
    ),
    Fault(
        name="zero-padded-maximum",
        families=SLIDING,
        message="You filled ceil mode's last windows with zeros, which win where all elements of a "
        "window are negative; what is outside the input must never be the maximum.",
        layer=zero_filled,
        applies=lambda plan: any(axis.overhang for axis in plan.axes),
    ),
    Fault(
        name="nan-if-first",
        families=ALL,
        message="Your `if (x > best)` loop begins with the window's first element, so NaN wins "
        "only there; NaN anywhere in a window is its maximum.",
        source="https://github.com/tracel-ai/burn/issues/5662",
        layer=nan_if_first,
    ),
    Fault(
        name="maximum-from-lowest",
        families=ALL,
        message="Your maximum begins with the lowest finite number, which remains for a window of "
        "-Infinity or NaN only; begin with -Infinity, and let NaN win.",
        source="https://github.com/pytorch/pytorch/pull/23161",
        layer=lowest_finite,
        in_dtype=True,
    ),
    Fault(
        name="tie-last",
        families=ALL,
        message="Of several equal maxima you chose the last (`>=`); the index and the gradient are "
        "those of the first.",
        source="https://github.com/FluxML/NNlib.jl/issues/205",
        changes=GRADIENTS | {"indices"},
        layer=tie_last,
    ),
    Fault(
        name="tie-last",
        families=INDEXED,
        message="Of several equal maxima you gave the index of the first and the gradient to the "
        "last; the gradient belongs to the first as well.",
        source="https://github.com/FluxML/NNlib.jl/issues/205",
        changes=GRADIENTS,
        layer=with_right_indices(tie_last),
        applies=_with_indices,
    ),
    Fault(
        name="tie-column-major",
        families=ALL,
        message="You looked for the first of several equal maxima in column-major order, as Julia "
        "stores arrays; the first in row-major order has the index and the gradient.",
        source="https://github.com/FluxML/NNlib.jl/issues/205",
        changes=GRADIENTS | {"indices"},
        layer=tie_column_major,
        applies=_several,
    ),
    Fault(
        name="tie-column-major",
        families=INDEXED,
        message="Of several equal maxima you gave the index of the first in row-major order and "
        "the gradient to the first in column-major order; it belongs to the same element.",
        source="https://github.com/FluxML/NNlib.jl/issues/205",
        changes=GRADIENTS,
        layer=with_right_indices(tie_column_major),
        applies=lambda plan: _several(plan) and _with_indices(plan),
    ),
    Fault(
        name="index-from-one",
        families=INDEXED,
        message="Your indices count from 1; they count from 0.",
        changes=frozenset({"indices"}),
        layer=from_one,
        applies=_with_indices,
    ),
    Fault(
        name="index-padded",
        families=SLIDING,
        message="Your indices are positions in the padded input; they are positions in the input "
        "without padding.",
        changes=frozenset({"indices"}),
        layer=index_padded,
        applies=lambda plan: _with_indices(plan) and _padded(plan),
    ),
    Fault(
        name="index-in-window",
        families=INDEXED,
        message="Your indices are positions within each window; they are positions in the input.",
        changes=frozenset({"indices"}),
        layer=index_in_window,
        applies=_with_indices,
    ),
)
