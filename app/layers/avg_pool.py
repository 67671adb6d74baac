"""Average pooling: the sum of each window over a divisor."""

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from app.errors import InvalidRequest
from app.layers._pooling import average_notes, pad_by_hand, padded_elements
from app.layers._spec import SPATIAL, LayerSpec, Notes, Plan, Tensors, check_not_empty, feature_map
from app.layers._windows import SlidingAxis, explicit, refuse_empty_windows, sliding_axes
from app.schemas.calls import Flag
from app.schemas.options import LayerOptions, Padding, Size
from app.schemas.tensors import Shapes

MAX_DIVISOR = 2**31 - 1


class AvgPoolOptions(LayerOptions):
    """Options of average pooling."""

    kernel_size: Size
    """The window, elements an axis."""
    stride: Size | None = None
    """Distance between windows; null: the kernel size."""
    padding: Padding = 0
    """Zeros around the input: numbers, pairs [before, after], or a mode."""
    dilation: Size = 1
    """Distance between the taps of a window."""
    ceil_mode: Flag = False
    """Whether a last window may reach beyond the padding."""
    ceil_rule: Literal["drop", "keep"] = "drop"
    """Ceil mode's last window where it would start behind the input: dropped, or kept."""
    count_include_pad: Flag = True
    """Whether padding counts in the divisor."""
    divisor_override: Annotated[int, Field(strict=True, ge=-MAX_DIVISOR, le=MAX_DIVISOR)] | None = (
        None
    )
    """Divide every window by this instead; not 0."""
    overhang_divisor: Literal["inside", "kernel"] = "inside"
    """Whether taps beyond the padding (ceil mode) are left out of the divisor, or count too."""


def plan(shapes: Shapes, options: AvgPoolOptions) -> Plan:
    """Windows, output shape, and cost: one addition a tap."""
    shape = shapes["input"]
    check_not_empty(shape)
    if options.divisor_override == 0:
        detail = "divisor_override: expected an integer other than 0; got 0"
        raise InvalidRequest.at("divisor_override", "out-of-range", detail)
    axes = sliding_axes(shape[2:], options)
    if not options.count_include_pad and options.divisor_override is None:
        refuse_empty_windows(axes)
    output = (*shape[:2], *(axis.output for axis in axes))
    used = options.model_copy(update=explicit(axes))
    native = _is_native(axes, used)
    padded = padded_elements(math.prod(shape[:2]), axes)
    return Plan(
        options=used,
        inputs=shapes,
        outputs={"output": output},
        cost=math.prod(output) * math.prod(a.kernel for a in axes)
        if native
        else padded * sum(a.kernel for a in axes),
        workspace=0 if native else 4 * padded,
        axes=axes,
    )


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *out)`."""
    x, axes, options = tensors["input"], plan.axes, plan.options
    if _is_native(axes, options):
        return {"output": _native(x, axes, options)}
    total = pad_by_hand(x, axes, 0.0)
    for dim, axis in enumerate(axes, start=2):
        before = (slice(None),) * dim
        taps = (total[(*before, axis.tap_slice(i))] for i in range(axis.kernel))
        total = sum(taps, start=x.new_zeros(()))
    return {"output": total / _divisors(axes, options).to(total)}


def _is_native(axes: tuple[SlidingAxis, ...], options: AvgPoolOptions) -> bool:
    """Whether torch's own pooling means the same, and takes the arguments."""
    return (
        options.ceil_rule == "drop"
        and (options.overhang_divisor == "inside" or not any(a.overhang for a in axes))
        and all(
            a.dilation == 1 and a.before == a.after <= a.kernel // 2 and a.kernel <= a.input
            for a in axes
        )
    )


def _native(
    x: torch.Tensor, axes: tuple[SlidingAxis, ...], options: AvgPoolOptions
) -> torch.Tensor:
    kernel, stride = [a.kernel for a in axes], [a.stride for a in axes]
    padding = [a.before for a in axes]
    rest = (options.ceil_mode, options.count_include_pad)
    if len(axes) == 1:
        if options.divisor_override is None:
            return F.avg_pool1d(x, kernel, stride, padding, *rest)
        flat = F.avg_pool2d(
            x.unsqueeze(2), [1, *kernel], [1, *stride], [0, *padding], *rest,
            options.divisor_override,
        )  # fmt: skip
        return flat.squeeze(2)
    pool: Any = F.avg_pool2d if len(axes) == 2 else F.avg_pool3d
    return pool(x, kernel, stride, padding, *rest, options.divisor_override)  # type: ignore[no-any-return]


def _divisors(axes: tuple[SlidingAxis, ...], options: AvgPoolOptions) -> torch.Tensor:
    """`(*out)`: by what each window's sum is divided; 1 where a window holds nothing."""
    if options.divisor_override is not None:
        return torch.full([a.output for a in axes], options.divisor_override)
    divisors = torch.ones((), dtype=torch.float64)
    for axis in axes:
        counts = _counts(axis, options)
        divisors = divisors.unsqueeze(-1) * counts
    return divisors.clamp(min=1)


def _counts(axis: SlidingAxis, options: AvgPoolOptions) -> torch.Tensor:
    """`(out)`: how many taps of each window count along one axis."""
    if options.count_include_pad and options.overhang_divisor == "kernel":
        return torch.full((axis.output,), axis.kernel)
    first, last = 0, axis.input
    if options.count_include_pad:
        first, last = -axis.before, axis.input + axis.after
    starts = torch.arange(axis.output) * axis.stride - axis.before
    below, counted = (
        (-((starts - bound) // axis.dilation)).clamp(0, axis.kernel) for bound in (first, last)
    )
    return counted - below


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """The windows with their divisors."""
    return average_notes(tensors["input"], plan, _divisors(plan.axes, plan.options))


def _example(dims: int) -> dict[str, object]:
    rows: Any = [1, 3, 2, 4] if dims == 1 else [[1, 3, 2, 4], [5, 7, 8, 6]]
    return {"input": [[[rows] if dims == 3 else rows]], "kernel_size": [1, 2, 2][-dims:]}


SPECS = tuple(
    LayerSpec(
        name=f"avg_pool{dims}d",
        family="avg_pool",
        summary=f"Mean of each window over {SPATIAL[dims]}",
        options=AvgPoolOptions,
        inputs=(feature_map("input", dims, differentiable=True),),
        outputs=(feature_map("output", dims),),
        plan=plan,
        run=run,
        explain=explain,
        example=_example(dims),
    )
    for dims in (1, 2, 3)
)
