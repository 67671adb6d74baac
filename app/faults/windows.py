"""Faults of windows, for pooling and convolution: their padding, dilation and axes."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from app.faults._averages import divisors, sums
from app.faults._axes import exact, extent, kept, outer, padded, starts, with_axes
from app.faults._fault import Fault, rebuilt
from app.faults._maxima import (
    answer,
    coordinates,
    image,
    lowest,
    over,
    position,
    room,
    source,
    taken,
)
from app.faults._weights import ordered, ordered_shape, with_kernel
from app.layers import LayerSpec, Plan, Tensors
from app.layers._windows import SlidingAxis
from app.schemas.options import LayerOptions
from app.schemas.tensors import Shapes

SUMS = frozenset({"avg_pool", "lp_pool"})
WINDOWS = SUMS | {"max_pool", "conv"}
Change = Callable[[SlidingAxis], dict[str, int]]


def moved(change: Change) -> Callable[[LayerSpec], LayerSpec]:
    """The layer with `change(axis)` made to each axis, and as many windows as before.

    What lies outside the changed padding is neither read nor counted.
    """

    def layer(spec: LayerSpec) -> LayerSpec:
        def run(tensors: Tensors, plan: Plan) -> Tensors:
            if spec.family in SUMS:
                return spec.run(
                    tensors, with_axes(plan, [kept(axis, **change(axis)) for axis in plan.axes])
                )
            axes = [exact(axis, **change(axis)) for axis in plan.axes]
            if spec.family == "max_pool":
                return over(spec, image(tensors), plan, axes)
            whole = padded(tensors["input"], axes, 0.0)
            lengths = zip(axes, whole.shape[2:], strict=True)
            inner = [exact(axis, input=length, before=0) for axis, length in lengths]
            return spec.run({**tensors, "input": whole}, with_axes(plan, inner))

        return rebuilt(spec, run, room=room)

    return layer


def undilated(spec: LayerSpec) -> LayerSpec:
    """The layer without dilation, which may have another output shape."""

    def plan(shapes: Shapes, options: LayerOptions) -> Plan:
        return spec.plan(shapes, options.model_copy(update={"dilation": 1}))

    return replace(spec, plan=plan)


def clamped(spec: LayerSpec) -> LayerSpec:
    """Windows that begin in the padding are read from the first element on, up to their own end."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        taps = [_clamped_taps(axis, x.device) for axis in plan.axes]
        if spec.family == "max_pool":
            return _maxima(x, taps, plan)
        divisor = divisors(spec, plan, x.device)
        if not plan.options.count_include_pad and plan.options.divisor_override is None:
            divisor = outer([(at >= 0).sum(1) for at in taps]).clamp(min=1)
        return {"output": sums(x, taps) / divisor}

    return rebuilt(spec, run, room=_clamped_room, calls=_taps)


def _clamped_taps(axis: SlidingAxis, device: torch.device) -> torch.Tensor:
    """`(out, kernel)`: coordinates that a window reads; -1 in place of those that it does not."""
    begins = starts(axis, device)
    ends = (begins + axis.effective).clamp(max=axis.input)
    at = begins.clamp(min=0)[:, None] + torch.arange(axis.kernel, device=device) * axis.dilation
    return torch.where(at < ends[:, None], at, -1)


def _maxima(x: torch.Tensor, taps: list[torch.Tensor], plan: Plan) -> Tensors:
    """Max pooling over taps, which are copied next to each other."""
    compared = source(x, plan)
    copied = F.pad(compared.detach(), [0, 1] * len(taps), value=lowest(x))
    for dim, at in enumerate(taps, start=2):
        index = torch.where(at < 0, x.shape[dim], at).flatten()
        copied = copied.index_select(dim, index)
    kernel = [at.shape[1] for at in taps]
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(taps) - 1]
    _, found = pool(copied, kernel, kernel, return_indices=True)
    chosen = [
        flat.flatten()[coordinate]
        for flat, coordinate in zip(taps, coordinates(found, copied.shape[2:]), strict=True)
    ]
    is_empty = torch.stack([coordinate < 0 for coordinate in chosen]).any(0)
    where = torch.where(is_empty, -1, position(chosen, x.shape[2:]))
    return answer(taken(compared, where, plan), where, x.shape[2:], plan)


def _taps(plan: Plan) -> int:
    taps: int = sum(map(extent, plan.axes))
    return 2 * taps


def _clamped_room(plan: Plan) -> int:
    """The taps side by side, for max pooling; sums hold one tap of every window."""
    lead = math.prod(plan.outputs["output"][:2])
    copied: int = math.prod(max(a.output * extent(a), a.input + 1) for a in plan.axes)
    return room(plan) + 2 * lead * copied


def edge_replicated(spec: LayerSpec) -> LayerSpec:
    """Padding that repeats the elements at the edge, and is counted as they are."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        for dim, axis in enumerate(plan.axes, start=2):
            at = torch.arange(-axis.before, axis.input + axis.after, device=x.device)
            x = x.index_select(dim, at.clamp(0, axis.input - 1))
        axes = [kept(axis, input=axis.padded, before=0, after=0) for axis in plan.axes]
        return spec.run({"input": x}, with_axes(plan, axes, count_include_pad=True))

    return rebuilt(spec, run, room=room)


def swapped(spec: LayerSpec) -> LayerSpec:
    """Kernel, stride and padding for the axes in reversed order; so is a convolution's kernel."""

    def plan(shapes: Shapes, options: LayerOptions) -> Plan:
        turned = dict(shapes)
        if "weight" in shapes:
            kernel = ordered_shape(shapes["weight"], options)[:1:-1]
            turned["weight"] = with_kernel(shapes["weight"], kernel, options)
        own = _swapped_plan(spec, turned, options)
        return replace(own, inputs={**own.inputs, **shapes})

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        if "weight" not in tensors:
            return spec.run(tensors, plan)
        tensors, plan = ordered(tensors, plan)
        weight = tensors["weight"]
        turned = weight.permute(0, 1, *range(weight.dim() - 1, 1, -1)).contiguous()
        inputs = {**plan.inputs, "weight": tuple(turned.shape)}
        return spec.run({**tensors, "weight": turned}, replace(plan, inputs=inputs))

    return replace(spec, plan=plan, run=run)


def swapped_but_kernel(spec: LayerSpec) -> LayerSpec:
    """A convolution whose stride and padding alone are taken in reversed order."""
    return replace(spec, plan=lambda shapes, options: _swapped_plan(spec, shapes, options))


def _swapped_plan(spec: LayerSpec, shapes: Shapes, options: Any) -> Plan:
    names = [name for name in SWAPPED if isinstance(getattr(options, name, None), tuple)]
    turned = {name: getattr(options, name)[::-1] for name in names}
    return spec.plan(shapes, options.model_copy(update=turned))


SWAPPED = ("kernel_size", "stride", "padding")


def _uneven(plan: Plan) -> bool:
    """Whether some axes differ in kernel, stride or padding."""
    return len({(a.kernel, a.stride, a.before, a.after) for a in plan.axes}) > 1


def _has_kernel(plan: Plan) -> bool:
    """Whether the layer takes a kernel with elements to exchange."""
    return "weight" in plan.inputs and any(axis.kernel > 1 for axis in plan.axes)


def _dilated(plan: Plan) -> bool:
    return any(axis.dilation > 1 < axis.kernel for axis in plan.axes)


def _asymmetric(plan: Plan) -> bool:
    return any(axis.before != axis.after for axis in plan.axes)


def _counts_padding(plan: Plan) -> bool:
    """Whether padding counts in the divisors of the layer."""
    options = plan.options
    if hasattr(options, "count_include_pad"):
        return options.count_include_pad and options.divisor_override is None
    return bool(options.lp_partial == "scaled")


FAULTS = (
    Fault(
        name="end-padding-dropped",
        families=SUMS,
        message="You lost the padding at the end: your last windows count none in their divisor; "
        "padding at the end counts as that at the beginning does.",
        source="https://github.com/microsoft/onnxruntime/issues/24681",
        layer=moved(lambda axis: {"after": 0}),
        applies=lambda plan: _counts_padding(plan) and any(axis.after for axis in plan.axes),
    ),
    Fault(
        name="end-padding-as-begin",
        families=SUMS,
        message="You took the padding of the beginning for that of the end, too; they are two "
        "numbers, [before, after].",
        source="https://github.com/microsoft/onnxruntime/pull/27375",
        layer=moved(lambda axis: {"after": axis.before}),
        applies=lambda plan: _counts_padding(plan) and _asymmetric(plan),
    ),
    Fault(
        name="begin-padding-dropped",
        families=WINDOWS,
        message="You lost the padding at the beginning: your first window begins at the first "
        "element; it begins `padding` elements before it.",
        source="https://github.com/openvinotoolkit/openvino/issues/38265",
        layer=moved(lambda axis: {"before": 0}),
        applies=lambda plan: any(axis.before for axis in plan.axes),
    ),
    Fault(
        name="begin-padding-as-end",
        families=WINDOWS,
        message="You took the padding of the end for that of the beginning, too; they are two "
        "numbers, [before, after].",
        layer=moved(lambda axis: {"before": axis.after}),
        applies=_asymmetric,
    ),
    Fault(
        name="dilation-ignored",
        families=WINDOWS,
        message="You ignored the dilation; the elements of a window are `dilation` apart.",
        source="https://github.com/sonos/tract/pull/2847",
        layer=undilated,
        applies=_dilated,
    ),
    Fault(
        name="dilation-ignored",
        families=WINDOWS,
        message="You used the dilation for the output's size alone; the elements of a window are "
        "`dilation` apart.",
        source="https://github.com/xboot/libonnx/issues/24",
        layer=moved(lambda axis: {"dilation": 1}),
        applies=_dilated,
    ),
    Fault(
        name="dilation-from-clamped-begin",
        families=frozenset({"max_pool", "avg_pool"}),
        message="You moved the start of a window in the padding to 0, and counted its dilated taps "
        "from there; they are counted from the start in the padding, and those in it skipped.",
        source="https://github.com/microsoft/onnxruntime/issues/29637",
        layer=clamped,
        applies=lambda plan: any(axis.before and axis.dilation > 1 for axis in plan.axes),
    ),
    Fault(
        name="edge-replicated",
        families=frozenset({"avg_pool"}),
        message="Your padding repeats the elements at the edge; padding is zeros, or is not "
        "counted.",
        source="https://github.com/keras-team/keras/pull/23233",
        layer=edge_replicated,
        applies=lambda plan: any(axis.before or axis.after for axis in plan.axes),
    ),
    Fault(
        name="axes-swapped",
        families=WINDOWS,
        message="You took kernel, stride and padding in reversed order of the axes; they are in "
        "the order of the input's axes, (D, H, W).",
        source="https://github.com/torch/cunn/pull/470",
        layer=swapped,
        applies=lambda plan: len(plan.axes) > 1 and (_uneven(plan) or _has_kernel(plan)),
    ),
    Fault(
        name="axes-swapped",
        families=frozenset({"conv"}),
        message="You took stride and padding in reversed order of the axes; they are in the order "
        "of the input's axes, (D, H, W).",
        source="https://github.com/torch/cunn/pull/470",
        layer=swapped_but_kernel,
        applies=lambda plan: len(plan.axes) > 1 and _uneven(plan),
    ),
)
