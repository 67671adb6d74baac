"""Lp pooling: the p-norm of each window."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from app.layers._accuracy import AVERAGE
from app.layers._averages import TAP_NS, Averages, window_elements
from app.layers._cases import SIDES, Case, image, numbers, with_options
from app.layers._pooling import reduction_advice, window_notes
from app.layers._precision import WIDE
from app.layers._spec import (
    BATCH_AND_CHANNELS,
    SPATIAL,
    LayerSpec,
    Notes,
    Plan,
    Tensors,
    check_not_empty,
    feature_map,
    presets,
)
from app.layers._terms import powers_in_window
from app.layers._windows import (
    SlidingAxis,
    WindowOptions,
    explicit,
    sliding_axes,
    window_choices,
)
from app.schemas.options import Flag
from app.schemas.tensors import Shapes

POWERS = 4
"""Operations per element for raising to a power and back."""


class LpPoolOptions(WindowOptions):
    """Options of Lp pooling."""

    norm_type: Annotated[float, Field(strict=True, gt=0, le=1024)] = 2.0
    """The exponent p, greater than 0."""
    lp_abs: Flag = False
    """Whether to take absolute values first. torch does not: odd powers can cancel, and negative
    sums or fractional powers give NaN."""
    lp_partial: Literal["scaled", "sum"] = "scaled"
    """How to compute a window that extends beyond the padding: scale its sum up to the size of a
    full window, or take the sum as it is."""


OTHERS = {"lp_abs": True, "lp_partial": "sum"}
PRESETS = presets(keras=OTHERS, onnx={**OTHERS, "stride": 1}, flax={**OTHERS, "stride": 1})


def plan(shapes: Shapes, options: LpPoolOptions) -> Plan:
    """Windows, output shape, and cost: one addition per tap, and the powers."""
    shape = shapes["input"]
    check_not_empty(shape)
    axes = sliding_axes(shape[2:], options)
    averages = _averages(axes, options)
    output = (*shape[:2], *(axis.output for axis in axes))
    elements = math.prod(shape) + math.prod(output)
    return Plan(
        options=options.model_copy(update=explicit(axes)),
        inputs=shapes,
        outputs={"output": output},
        cost=averages.cost(output) + POWERS * elements,
        workspace=averages.workspace(output) + WIDE * (3 * math.prod(shape) + math.prod(output)),
        gradient_workspace=averages.workspace(output) + WIDE * 5 * elements,
        axes=axes,
        overhead_ns=averages.overhead_ns + TAP_NS * sum(axis.kernel for axis in axes),
    )


def _averages(axes: tuple[SlidingAxis, ...], options: LpPoolOptions) -> Averages:
    whole = 1 if options.lp_partial == "sum" else None
    return Averages(axes, count_include_pad=True, overhang_counts=False, override=whole)


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *out)`, in float64, so that powers do not overflow.

    A window whose sum is 0 passes no gradient. An element that is in no window gets no gradient,
    and with `lp_abs`, neither does an element that is 0.

    Source: torch `nn.functional.lp_pool2d`, which averages and scales up by the window.
    """
    options = plan.options
    averages = _averages(plan.axes, options)
    x = tensors["input"].double()
    x = _Power.apply(x, options, averages)  # type: ignore[no-untyped-call]
    sums = averages.of(x)
    if options.lp_partial == "scaled":
        sums = sums * window_elements(plan.axes)
    return {"output": torch.where(sums == 0, 0.0, sums).pow(1.0 / options.norm_type)}


class _Power(torch.autograd.Function):
    """`x^p`, or `|x|^p`, without the infinite or undefined values of torch's own derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, options: LpPoolOptions, averages: Averages) -> Any:
        ctx.save_for_backward(x)
        ctx.options, ctx.averages = options, averages
        return (x.abs() if options.lp_abs else x).pow(options.norm_type)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (x,), p = ctx.saved_tensors, ctx.options.norm_type
        seen = ctx.averages.seen().to(x.device)
        if ctx.options.lp_abs:
            sign = torch.where(x.isnan(), x, x.sign())  # torch's sign of NaN is 0
            slope, none = x.abs().pow(p - 1) * sign, x == 0
        else:
            slope, none = x.pow(p - 1), (x == 0) & (grad == 0)
        return torch.where(seen & ~none, grad * p * slope, 0.0), None, None


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """The windows."""
    x = tensors["input"]
    windows, truncated = window_notes(x, plan)
    return Notes(windows, truncated, tuple(reduction_advice(plan.axes, x.shape[2:])))


def _example(dims: int) -> dict[str, object]:
    rows: Any = [3, 4, 0, 5] if dims == 1 else [[3, 0, 2, 4], [4, 0, 4, 2]]
    kernel = [1, 2, 2][-dims:]
    return {"input": [[[rows] if dims == 3 else rows]], "norm_type": 2, "kernel_size": kernel}


def _cases(dims: int) -> tuple[Case, ...]:
    halves = (n // 2 for n in SIDES[dims])
    return with_options(
        {"input": image(dims, positive=True), "kernel_size": 2, "grad_output": "ones"},
        *window_choices(dims),
        {"norm_type": 3, "lp_abs": False, "lp_partial": "scaled"},
        {"norm_type": 1.5, "stride": 3, "ceil_mode": True, "lp_partial": "sum"},
        {"input": image(dims), "norm_type": 1, "lp_abs": True, "explain": True},
        {"norm_type": 2.5, "grad_output": numbers(2, 2, *halves)},
    )


SPECS = tuple(
    LayerSpec(
        name=f"lp_pool{dims}d",
        family="lp_pool",
        summary=f"p-norm of each window over {SPATIAL[dims]}",
        options=LpPoolOptions,
        inputs=(feature_map("input", dims, differentiable=True),),
        outputs=(feature_map("output", dims),),
        plan=plan,
        run=run,
        explain=explain,
        presets=PRESETS,
        accuracy=AVERAGE,
        terms=powers_in_window,
        independent=BATCH_AND_CHANNELS,
        formula="y[o] = (sum over taps i of x[o * stride - padding + i * dilation]^p)^(1/p)",
        differences=(
            "ONNX takes absolute values; torch does not: for p = 1, 3 and -4 give -1, and odd "
            "powers with a negative sum give NaN: `lp_abs`.",
            "torch scales a partial window up to a full one: for p = 1, a single 5 in a window of "
            "2 gives 10. ONNX takes the sum as it is: `lp_partial`.",
            "torch supports neither padding nor dilation here.",
            "A window with sum 0 passes no gradient, as in torch. An element outside every window "
            "gets gradient 0; torch gives NaN if it is negative and p is fractional.",
        ),
        example=_example(dims),
        own_cases=_cases(dims),
    )
    for dims in (1, 2, 3)
)
