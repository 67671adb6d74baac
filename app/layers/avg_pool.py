"""Average pooling: the sum of each window over a divisor."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.errors import InvalidRequest
from app.layers._accuracy import AVERAGE
from app.layers._averages import Averages
from app.layers._cases import SIDES, Case, image, numbers, with_options
from app.layers._pooling import average_notes
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
from app.layers._terms import linear_in_window
from app.layers._windows import (
    EMPTY_WINDOWS,
    SlidingAxis,
    WindowOptions,
    explicit,
    refuse_empty_windows,
    sliding_axes,
    window_choices,
)
from app.schemas.options import Flag
from app.schemas.tensors import Shapes

MAX_DIVISOR = 2**31 - 1


class AvgPoolOptions(WindowOptions):
    """Options of average pooling."""

    count_include_pad: Flag = True
    """Whether the divisor counts padding."""
    divisor_override: Annotated[int, Field(strict=True, ge=-MAX_DIVISOR, le=MAX_DIVISOR)] | None = (
        None
    )
    """Divisor of every window, including windows with only padding, which are then 0. Not 0."""
    overhang_divisor: Literal["inside", "kernel"] = "inside"
    """Whether elements beyond the padding (in ceil mode) are excluded from the divisor, or
    counted."""
    empty_window: Literal["refuse", "zero"] = "refuse"
    """What to do with a window that contains only padding where the divisor does not count padding:
    refuse the request, or set its result to 0. Where padding counts, it is 0 in any case."""


PRESETS = presets(
    keras={"count_include_pad": False},
    onnx={"stride": 1, "count_include_pad": False},
    flax={"stride": 1},
)


def plan(shapes: Shapes, options: AvgPoolOptions) -> Plan:
    """Windows, output shape, and cost: one addition per tap."""
    shape = shapes["input"]
    check_not_empty(shape)
    if options.divisor_override == 0:
        detail = "divisor_override: must not be 0"
        raise InvalidRequest.at("divisor_override", "out-of-range", detail)
    axes = sliding_axes(shape[2:], options)
    counts = options.count_include_pad or options.divisor_override is not None
    if not counts and options.empty_window == "refuse":
        refuse_empty_windows(axes, '"zero"')
    averages = _averages(axes, options)
    output = (*shape[:2], *(axis.output for axis in axes))
    return Plan(
        options=options.model_copy(update=explicit(axes)),
        inputs=shapes,
        outputs={"output": output},
        cost=averages.cost(output),
        workspace=averages.workspace(output),
        gradient_workspace=2 * averages.workspace(output),
        axes=axes,
        overhead_ns=averages.overhead_ns,
    )


def _averages(axes: tuple[SlidingAxis, ...], options: AvgPoolOptions) -> Averages:
    return Averages(
        axes,
        options.count_include_pad,
        options.overhang_divisor == "kernel",
        options.divisor_override,
    )


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *out)`."""
    return {"output": _averages(plan.axes, plan.options).of(tensors["input"])}


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """The windows with their divisors."""
    return average_notes(tensors["input"], plan, _averages(plan.axes, plan.options).divisor)


def _example(dims: int) -> dict[str, object]:
    rows: Any = [1, 3, 2, 4] if dims == 1 else [[1, 3, 2, 4], [5, 7, 8, 6]]
    return {"input": [[[rows] if dims == 3 else rows]], "kernel_size": [1, 2, 2][-dims:]}


def _cases(dims: int) -> tuple[Case, ...]:
    halves = (n // 2 for n in SIDES[dims])
    return with_options(
        {"input": image(dims), "kernel_size": 2, "grad_output": "ones"},
        *window_choices(dims),
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
        {"count_include_pad": True, "divisor_override": None, "overhang_divisor": "inside"},
        {"stride": 3, "ceil_mode": True, "overhang_divisor": "kernel"},
        {"divisor_override": 3, "explain": True},
        {"empty_window": "refuse"},
        {**EMPTY_WINDOWS, "empty_window": "zero", "count_include_pad": False, "explain": True},
        {"divisor_override": -2, "grad_output": numbers(2, 2, *halves)},
    )


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
        accuracy=AVERAGE,
        terms=linear_in_window,
        independent=BATCH_AND_CHANNELS,
        formula="y[o] = sum over taps i of x[o * stride - padding + i * dilation], over a divisor: "
        "the taps that count",
        differences=(
            "The divisor counts padding in torch and Flax, but not in Keras and ONNX.",
            "The default stride is the kernel size in torch and Keras, and 1 in ONNX and Flax.",
            "torch refuses padding above half the kernel size; the others accept any below it.",
            "Elements beyond the padding in ceil mode never count in torch; they did in ONNX "
            "Runtime until 2026, for models before opset 19: `overhang_divisor: kernel`.",
            "Where padding does not count, a window with only padding is NaN in Flax and in ONNX's "
            "reference evaluator; here it is refused, or 0: `empty_window`.",
        ),
        presets=PRESETS,
        any_order=True,
        example=_example(dims),
        own_cases=_cases(dims),
    )
    for dims in (1, 2, 3)
)
