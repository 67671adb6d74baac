"""Max pooling: the largest element of each window, and its index."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from app.errors import InvalidRequest
from app.layers._accuracy import MAXIMUM
from app.layers._cases import SIDES, Case, image, numbers, with_options
from app.layers._indices import numbered
from app.layers._pooling import max_notes, pad_by_hand, padded_elements
from app.layers._precision import LONGEST_SUM, WIDE, widened
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
from app.layers._terms import selected_maximum
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
from app.schemas.tensors import FLOATS, INTEGERS, Shapes

ARITHMETIC_COPIES = 17
NUMBERED_COPIES = {"plane": 0, "tf": 2, "onnx": 2}
"""Float32 elements of working memory per window while the 64-bit indices are computed."""
DIVISION = 6
"""Operations per window and axis where indices are split into coordinates."""
PART_NS = 8_000
"""Overhead per part of the windows where gradients are shared, whatever its size; the compute layer
counts it six times."""

POOLS = (F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices)


class MaxPoolOptions(WindowOptions):
    """Options of max pooling."""

    return_indices: Flag = False
    """Whether to return the index of each maximum."""
    index_base: Literal["plane", "onnx", "tf"] = "plane"
    """How indices count: `plane`, the position within the channel's plane; `onnx`, the position in
    the whole tensor in the order (N, C, D, H, W), whatever the layout; `tf`, as TensorFlow does."""
    storage_order: Literal["row", "column"] = "row"
    """Order of the spatial axes in ONNX indices."""
    tie: Literal["first", "split", "all"] = "first"
    """Which of several equal maxima receive the gradient: the first, all in equal shares, or all
    in full. NaNs are equal to each other; of these, `first` means the last, as in torch."""
    nan: Literal["propagate", "ignore"] = Field("propagate")
    """Whether NaN is the maximum of its window, or is ignored. A window of NaNs only is then
    -Infinity, with the index of its first element and no gradient."""
    empty_window: Literal["refuse", "zero", "lowest"] = "refuse"
    """What to do with a window that contains only padding: refuse the request, or set its result to
    0 or to the lowest value, which is -Infinity, or the least value of an integer dtype. Its index
    is then -1 in every index base, and it passes no gradient."""


PRESETS = presets(
    keras={"index_base": "tf"},
    onnx={"stride": 1, "index_base": "onnx"},
    flax={"stride": 1},
)


def plan(shapes: Shapes, options: MaxPoolOptions) -> Plan:
    """Windows, output shape, and cost: one comparison per tap."""
    shape = shapes["input"]
    check_not_empty(shape)
    if options.storage_order == "column" and options.index_base != "onnx":
        detail = 'storage_order: "column" requires `index_base: "onnx"`'
        raise InvalidRequest.at("storage_order", "conflict", detail)
    axes = sliding_axes(shape[2:], options)
    if options.empty_window == "refuse":
        refuse_empty_windows(axes, '"zero" or "lowest"')
    output = (*shape[:2], *(axis.output for axis in axes))
    used = options.model_copy(update=explicit(axes))
    numbers = math.prod(output)
    by_hand = not _is_native(axes, used)
    turned = options.storage_order == "column" and options.return_indices
    return Plan(
        options=used,
        inputs=shapes,
        outputs={"output": output, **({"indices": output} if options.return_indices else {})},
        cost=numbers
        * (math.prod(axis.kernel for axis in axes) + DIVISION * len(axes) * (by_hand + 2 * turned)),
        workspace=numbers
        * (2 + ARITHMETIC_COPIES * by_hand + NUMBERED_COPIES[used.index_base] + 6 * turned)
        + 3 * padded_elements(math.prod(shape[:2]), axes) * by_hand,
        axes=axes,
        gradient_workspace=WIDE
        * (math.prod(shape) + numbers)
        * (_overlap(axes) > LONGEST_SUM)
        * (1 + by_hand),
        time_factor=1 if options.tie == "first" else 2,
        overhead_ns=PART_NS * _parts_count(axes) if options.tie != "first" else 0,
    )


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *out)`, and the indices if requested."""
    x, options = tensors["input"], plan.options
    empty = None
    if x.requires_grad and math.prod(plan.outputs["output"][2:]) > LONGEST_SUM:
        x = widened(x, _overlap(plan.axes))
    if _is_native(plan.axes, options):
        output, where = _pool(x, plan.axes, tuple(a.before for a in plan.axes), options.ceil_mode)
    else:
        ignored = x.isnan() if options.nan == "ignore" and x.is_floating_point() else None
        source = x if ignored is None else torch.where(ignored, -math.inf, x)
        where = _first_maximum(source.detach(), plan.axes)
        output = _taken(source, where)
        if ignored is not None and bool(ignored.any()):
            # If the maximum is -Infinity, it wins over an ignored NaN before it.
            numbers = torch.where(ignored, -math.inf, torch.zeros_like(x))
            where = torch.where(output == -math.inf, _first_maximum(numbers, plan.axes), where)
            output = _taken(source, where)
        if options.tie != "first" and source.requires_grad:
            output = _SharedMaximum.apply(  # type: ignore[no-untyped-call]
                source, output.detach(), ignored, plan.axes, options.tie
            )
        if _has_empty(plan.axes, options):
            empty = _empty(plan.axes, x.device)
            output = output.masked_fill(
                empty, _lowest(x) if options.empty_window == "lowest" else 0
            )
    if not options.return_indices:
        return {"output": output}
    indices = numbered(where, x.shape[2:], options.index_base, options.storage_order)
    if empty is not None:
        indices = indices.masked_fill(empty, -1)
    return {"output": output, "indices": indices}


def _overlap(axes: tuple[SlidingAxis, ...]) -> int:
    """Upper bound on how many windows an element is in, and so on the terms of its gradient."""
    return math.prod(axis.overlap for axis in axes)


def _taken(source: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The elements at these positions of their planes."""
    return source.flatten(2).gather(2, where.flatten(2)).view(where.shape)


def _is_native(axes: tuple[SlidingAxis, ...], options: MaxPoolOptions) -> bool:
    """Whether torch's own pooling gives the same result."""
    return (
        options.tie == "first"
        and options.nan == "propagate"
        and all(a.before == a.after <= a.kernel // 2 for a in axes)
        and not _has_empty(axes, options)
    )


def _has_empty(axes: tuple[SlidingAxis, ...], options: MaxPoolOptions) -> bool:
    """Whether any window contains only padding."""
    return options.empty_window != "refuse" and any(axis.empty_windows() for axis in axes)


def _empty(axes: tuple[SlidingAxis, ...], device: torch.device) -> torch.Tensor:
    """`(*out)`: which windows contain only padding."""
    empty = torch.zeros((), dtype=torch.bool, device=device)
    for axis in axes:
        empty = empty.unsqueeze(-1) | (_first_taps(axis, device) >= axis.input)
    return empty


def _first_taps(axis: SlidingAxis, device: torch.device) -> torch.Tensor:
    """`(out)`: the coordinate of each window's first tap that is not in the leading padding.

    Every window has one, because padding is smaller than the window.
    """
    starts = torch.arange(axis.output, device=device) * axis.stride - axis.before
    return torch.where(starts < 0, starts.remainder(axis.dilation), starts)


def _pool(
    x: torch.Tensor, axes: tuple[SlidingAxis, ...], padding: tuple[int, ...], ceil: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    kernel, stride = tuple(a.kernel for a in axes), tuple(a.stride for a in axes)
    dilation = tuple(a.dilation for a in axes)
    pool: Any = POOLS[len(axes) - 1]
    output, where = pool(x, kernel, stride, padding, dilation, ceil)
    return output, where


def _lowest(x: torch.Tensor) -> float:
    return -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


def _first_maximum(x: torch.Tensor, axes: tuple[SlidingAxis, ...]) -> torch.Tensor:
    """Plane indices of the maxima, from pooling the input padded by hand.

    Padding can only win if every element of a window equals it, and then the window's first
    element is the maximum. The index of a window without elements is any element's.
    """
    padded = pad_by_hand(x, axes, _lowest(x))
    _, rest = _pool(padded, axes, (0,) * len(axes), ceil=False)
    plane = torch.zeros_like(rest)
    first = torch.zeros((), dtype=rest.dtype, device=x.device)
    is_real = torch.ones_like(rest, dtype=torch.bool)
    unit = 1
    for axis, length in zip(reversed(axes), reversed(padded.shape[2:]), strict=True):
        position = rest % length - axis.before
        rest = rest.div(length, rounding_mode="floor")
        is_real &= (position >= 0) & (position < axis.input)
        plane += position * unit
        starts = _first_taps(axis, x.device).clamp_(max=axis.input - 1)
        first = starts.view(-1, *[1] * first.dim()) * unit + first
        unit *= axis.input
    return torch.where(is_real, plane, first)


class _SharedMaximum(torch.autograd.Function):
    """Passes the maxima through; their gradient goes to every element that equals its window's
    maximum and is not ignored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        source: torch.Tensor,
        maximum: torch.Tensor,
        ignored: torch.Tensor | None,
        axes: tuple[SlidingAxis, ...],
        tie: str,
    ) -> torch.Tensor:
        counted = torch.ones_like(source[:1, :1]) if ignored is None else (~ignored).to(source)
        ctx.save_for_backward(source, maximum, counted)
        ctx.axes, ctx.tie = axes, tie
        return maximum.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (source, maximum, counted), axes = ctx.saved_tensors, ctx.axes
        padded = pad_by_hand(source, axes, -math.inf)
        real = pad_by_hand(counted, axes, 0).bool()
        is_nan = maximum.isnan()

        def winners(seen: Any, windows: Any) -> torch.Tensor:
            elements, most = padded[seen], maximum[windows]
            won: torch.Tensor = (elements == most) | (elements.isnan() & is_nan[windows])
            return won & real[seen]

        if ctx.tie == "split":
            count = torch.zeros_like(grad)
            for seen, windows in _parts(axes):
                count[windows] += winners(seen, windows).sum_to_size(count[windows].shape)
            grad = grad / count
        spread = torch.zeros_like(padded)
        for seen, windows in _parts(axes):
            spread[seen] += torch.where(winners(seen, windows), grad[windows], 0)
        unpadded: Any = (..., *(slice(a.before, a.before + a.input) for a in axes))
        return spread[unpadded], None, None, None, None


def _parts_count(axes: tuple[SlidingAxis, ...]) -> int:
    """How many parts `_parts` yields."""
    return min(math.prod(a.output for a in axes), math.prod(a.kernel for a in axes))


def _parts(axes: tuple[SlidingAxis, ...]) -> Iterator[tuple[Any, Any]]:
    """Iterate over one tap of all windows, or all taps of one window, whichever takes fewer steps.

    Yields where the elements lie on the padded axes, and where the windows lie in the output.
    """
    by_window = math.prod(a.output for a in axes) == _parts_count(axes)
    for part in itertools.product(*(range(a.output if by_window else a.kernel) for a in axes)):
        if by_window:
            seen = [axis.window_slice(i) for axis, i in zip(axes, part, strict=True)]
            yield (..., *seen), (..., *(slice(i, i + 1) for i in part))
        else:
            yield (..., *(axis.tap_slice(i) for axis, i in zip(axes, part, strict=True))), ...


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """The windows with their maxima."""
    return max_notes(tensors["input"], plan, ignore_nan=plan.options.nan == "ignore")


def _example(dims: int) -> dict[str, object]:
    rows: Any = [1, 3, 2, 4] if dims == 1 else [[1, 3, 2, 4], [5, 6, 8, 7]]
    return {"input": [[[rows] if dims == 3 else rows]], "kernel_size": [1, 2, 2][-dims:]}


def _cases(dims: int) -> tuple[Case, ...]:
    halves = (n // 2 for n in SIDES[dims])
    cases = with_options(
        {"input": image(dims), "kernel_size": 2, "grad_output": "ones"},
        *window_choices(dims),
        {"index_base": "plane", "storage_order": "row", "tie": "first", "nan": "propagate"},
        {"return_indices": True, "index_base": "onnx", "storage_order": "column"},
        {"return_indices": True, "index_base": "tf", "nan": "ignore"},
        {"return_indices": False, "tie": "split", "stride": 1},
        {"tie": "all", "stride": 1, "explain": True},
        {"empty_window": "refuse"},
        {**EMPTY_WINDOWS, "empty_window": "zero", "return_indices": True, "index_base": "tf"},
        {**EMPTY_WINDOWS, "empty_window": "lowest", "tie": "split", "explain": True},
        {"grad_output": numbers(2, 2, *halves)},
    )
    return (*cases, Case("int8", {**_example(dims), "dtype": "int8"}))


SPECS = tuple(
    LayerSpec(
        name=f"max_pool{dims}d",
        family="max_pool",
        summary=f"Largest element of each window over {SPATIAL[dims]}",
        options=MaxPoolOptions,
        inputs=(feature_map("input", dims, differentiable=True),),
        outputs=(feature_map("output", dims), feature_map("indices", dims, required=False)),
        plan=plan,
        run=run,
        explain=explain,
        accuracy=MAXIMUM,
        terms=selected_maximum,
        independent=BATCH_AND_CHANNELS,
        formula="y[o] = max over taps i of x[o * stride - padding + i * dilation]; "
        "padding never wins",
        differences=(
            "The default stride is the kernel size in torch and Keras, and 1 in ONNX and Flax.",
            "Indices count within a plane in torch, over the whole tensor in ONNX, and with the "
            "channel varying fastest in TensorFlow: `index_base`.",
            "The first of several equal maxima gets the gradient; amax and reduce_max divide it: "
            "`tie`.",
            "torch refuses padding above half the kernel size; the others accept any below it.",
            "Some frameworks ignore NaN: `nan: ignore`.",
            "A window with only padding is -Infinity in Flax, and NaN in ONNX's reference "
            "evaluator; in torch, its gradient is written outside the tensor's memory: "
            "`empty_window`.",
        ),
        presets=PRESETS,
        dtypes=FLOATS + INTEGERS,
        any_order=dims < 3,
        example=_example(dims),
        own_cases=_cases(dims),
    )
    for dims in (1, 2, 3)
)
