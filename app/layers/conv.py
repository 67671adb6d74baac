"""Convolution (cross-correlation, as all frameworks here define it)."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field

from app.errors import InvalidRequest
from app.layers._accuracy import CONVOLUTION
from app.layers._cases import SIDES, Case, image, numbers, with_options
from app.layers._conv_sums import (
    SummedInPieces,
    by_sample,
    convolution,
    copied_by_pieces,
    pieces_count,
)
from app.layers._pooling import pad_by_hand
from app.layers._precision import LONGEST_SUM, WIDE, widened
from app.layers._spec import (
    SPATIAL,
    SPATIAL_NAMES,
    LayerSpec,
    Plan,
    Port,
    Tensors,
    check_not_empty,
    feature_map,
    presets,
)
from app.layers._terms import convolved
from app.layers._windows import SlidingAxis, explicit, per_axis, window_axes
from app.schemas.options import Extent, LayerOptions, Padding, Size
from app.schemas.tensors import Shape, Shapes

MULTIPLY_ADD_NS = 1.0
"""Matrix products are cheaper than pooling's comparisons."""
CHANNEL_BLOCK = 16
GROUP_NS = 5_000
"""Overhead per group where torch convolves groups one by one, whatever their size."""
PIECE_NS = 60_000
"""Overhead per piece where a gradient sums over many positions, whatever the piece's size."""
SAMPLE_NS = 3_000
"""Overhead per sample and group with dilation, where torch may unfold each separately."""


class ConvOptions(LayerOptions):
    """Options of convolution."""

    stride: Size = 1
    """Distance between windows."""
    padding: Padding = 0
    """Zero padding around the input: numbers, pairs [before, after], or a mode."""
    dilation: Size = 1
    """Distance between the elements of a window."""
    groups: Annotated[int, Field(strict=True, ge=1)] = 1
    """Number of groups of channels, each convolved separately."""
    weight_layout: Literal["oihw", "hwio"] = "oihw"
    """Order of the weight's axes, and of its gradient's: `oihw`, [out, in / groups, *kernel], or
    `hwio`, [*kernel, in / groups, out]; the kernel has as many axes as the layer."""


class ConvShapeFields(BaseModel):
    """What a shape request says in place of the weight."""

    out_channels: Annotated[Extent, Field(examples=[2])]
    """Number of output channels."""
    kernel_size: Annotated[Size, Field(examples=[1])]
    """Size of the window along each spatial axis."""


def plan(shapes: Shapes, options: ConvOptions) -> Plan:
    """Windows, output shape, and cost: one multiply-add per tap and input channel."""
    shape, weight = shapes["input"], _oihw(shapes["weight"], options)
    check_not_empty(shape)
    _check_weight(shape, weight, options)
    _check_bias(shapes, weight)
    axes = window_axes(shape[2:], weight[2:], options, blame="input")
    output = (shape[0], weight[0], *(axis.output for axis in axes))
    operations = math.prod(output) * math.prod(weight[1:])
    # torch either unfolds its input or lays out its output in blocks of channels.
    unfolded = max(operations // weight[0] * options.groups, _blocked(output))
    workspace = unfolded + 2 * math.prod(shape)
    gradient_workspace = _blocked(shape) + 2 * math.prod(output)
    pieces = copied_by_pieces(shape, output, axes)
    forward, backward = _longest_sums(weight, output, options.groups, axes, in_pieces=pieces > 0)
    kernel = math.prod(weight)
    turned = kernel * (options.weight_layout != "oihw")
    if forward > LONGEST_SUM:
        workspace = WIDE * (workspace + math.prod(shape) + math.prod(output))
    if max(forward, backward) > LONGEST_SUM:
        gradient_workspace = WIDE * (gradient_workspace + math.prod(shape) + workspace)
        gradient_workspace += WIDE * kernel
    gradient_workspace += pieces + (pieces > 0) * by_sample(weight, output, options.groups)
    gradient_workspace += turned + WIDE * kernel
    # torch lays out the weight in blocks, or it is widened.
    workspace += turned + (WIDE if forward > LONGEST_SUM else 1) * kernel
    used = {name: value for name, value in explicit(axes).items() if name != "kernel_size"}
    return Plan(
        options=options.model_copy(update=used),
        inputs={**shapes, "bias": weight[:1]},
        outputs={"output": output},
        cost=operations,
        workspace=workspace,
        gradient_workspace=gradient_workspace,
        axes=axes,
        operation_ns=MULTIPLY_ADD_NS,
        overhead_ns=_overhead_ns(shape[0], options.groups, axes) + PIECE_NS * pieces_count(output),
    )


def _blocked(shape: Shape) -> int:
    """Elements of a tensor whose channels are padded to whole blocks."""
    return math.prod(shape) // shape[1] * -(-shape[1] // CHANNEL_BLOCK) * CHANNEL_BLOCK


def _overhead_ns(samples: int, groups: int, axes: Iterable[SlidingAxis]) -> float:
    dilated = any(axis.dilation > 1 for axis in axes)
    return groups * (GROUP_NS + samples * SAMPLE_NS * dilated)


def _oihw(weight: Shape, options: ConvOptions) -> Shape:
    """The lengths of a weight as sent, as (out, C / groups, *kernel)."""
    return weight if options.weight_layout == "oihw" else (*weight[:-3:-1], *weight[:-2])


def _as_sent(weight: Shape, options: ConvOptions) -> Shape:
    """The inverse of `_oihw`."""
    return weight if options.weight_layout == "oihw" else (*weight[2:], *weight[1::-1])


def _check_weight(shape: Shape, weight: Shape, options: ConvOptions) -> None:
    sent = _as_sent(weight, options)
    if 0 in weight:
        detail = f"weight: all axes must be non-empty; got shape {list(sent)}"
        raise InvalidRequest.at("weight", "empty-axis", detail)
    channels, groups = shape[1], options.groups
    if weight[1] * groups != channels and channels % groups == 0:
        each = channels // groups
        wanted, other, there = f"[out, {each}, *kernel]", "hwio", sent[-2]
        if options.weight_layout == "hwio":
            wanted, other, there = f"[*kernel, {each}, out]", "oihw", sent[1]
        detail = (
            f"weight: expected shape {wanted} for {channels} channels in {groups} groups, as "
            f"`weight_layout` is {options.weight_layout}; got {list(sent)}"
        )
        if there == each:
            detail += f'. If its axes are in the other order, add `weight_layout: "{other}"`'
        raise InvalidRequest.at("weight", "shape-mismatch", detail)
    if channels % groups or weight[0] % groups:
        detail = (
            f"groups: must divide the {channels} input channels and the {weight[0]} output "
            f"channels; got {groups}"
        )
        raise InvalidRequest.at("groups", "shape-mismatch", detail)


def _check_bias(shapes: Shapes, weight: Shape) -> None:
    if shapes.get("bias", weight[:1]) != weight[:1]:
        detail = f"bias: expected shape [{weight[0]}]; got {list(shapes['bias'])}"
        raise InvalidRequest.at("bias", "shape-mismatch", detail)


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, out, *out_spatial)`."""
    x, axes = tensors["input"], plan.axes
    shape = plan.outputs["output"]
    in_pieces = copied_by_pieces(plan.inputs["input"], shape, axes) > 0
    weight = _oihw(plan.inputs["weight"], plan.options)
    forward, backward = _longest_sums(weight, shape, plan.options.groups, axes, in_pieces=in_pieces)
    x = widened(x, max(forward, backward) if x.requires_grad else forward)
    parameters = _kernel(tensors["weight"], plan.options).to(x), tensors["bias"].to(x)
    padding = [axis.before for axis in axes]
    if any(axis.before != axis.after for axis in axes):
        x, padding = pad_by_hand(x, axes, 0.0), [0] * len(axes)
    if x.requires_grad and in_pieces and x.dtype != torch.float64:
        output = SummedInPieces.apply(x, *parameters, plan, padding)  # type: ignore[no-untyped-call]
        return {"output": output}
    return {"output": convolution(x, parameters, plan, padding)}


def _kernel(weight: torch.Tensor, options: ConvOptions) -> torch.Tensor:
    """A weight as sent -> `(out, C / groups, *kernel)`, contiguous, so that the result does not
    depend on the layout.
    """
    if options.weight_layout == "oihw":
        return weight
    return weight.movedim((-1, -2), (0, 1)).contiguous()


def _longest_sums(
    weight: Shape, output: Shape, groups: int, axes: Sequence[SlidingAxis], *, in_pieces: bool
) -> tuple[int, int]:
    """Maximum number of terms in the sums of the output (over channels and taps), and in those of
    the gradients: over output channels and taps for the input, over samples and positions for the
    weight, unless these are cut into pieces.
    """
    windows = math.prod(axis.overlap for axis in axes)
    positions = 0 if in_pieces else math.prod(output) // output[1]
    return math.prod(weight[1:]), max(weight[0] // groups * windows, positions)


def parameter_shapes(shape: Shape, call: Any) -> Shapes:
    """The weight's shape, from the fields that a shape request has in its place."""
    dims = len(shape) - 2
    kernel = per_axis("kernel_size", call.kernel_size, dims) if dims > 0 else ()
    if shape[1] % call.groups:
        detail = f"groups: must divide the {shape[1]} channels; got {call.groups}"
        raise InvalidRequest.at("groups", "shape-mismatch", detail)
    return {"weight": _as_sent((call.out_channels, shape[1] // call.groups, *kernel), call)}


def _example(dims: int) -> dict[str, object]:
    row = [1, 3, 2, 4]
    images: Any = {1: row, 2: [row, row], 3: [[row, row]]}
    kernels: Any = {1: [1, -1], 2: [[1, -1], [2, 0]], 3: [[[1, -1], [2, 0]]]}
    return {"input": [[images[dims]]], "weight": [[kernels[dims]]]}


def _cases(dims: int) -> tuple[Case, ...]:
    kernel, lengths = [2] * dims, (n // 2 for n in SIDES[dims])
    hwio = {"weight_layout": "hwio", "weight": numbers(*kernel, 2, 4)}
    return with_options(
        {
            "input": image(dims),
            "weight": numbers(4, 2, *kernel),
            "weight_layout": "oihw",
            "grad_output": "ones",
        },
        {"stride": 2, "padding": 1, "bias": numbers(4)},
        {"padding": [[2, 1]], "groups": 2, "weight": numbers(4, 1, *kernel)},
        {"padding": "valid", "explain": True},
        {"padding": "same", "groups": 1},
        {"padding": "same_upper", "dilation": 2},
        {"padding": "same_lower", "stride": 3},
        {"stride": [1, 2, 3][:dims], "padding": [1, 0, 2][:dims], "dilation": [2, 1, 3][:dims]},
        {"stride": 2, "grad_output": numbers(2, 4, *lengths)},
        {**hwio, "bias": numbers(4)},
        {**hwio, "groups": 2, "weight": numbers(*kernel, 1, 4), "explain": True},
    )


def _ports(dims: int) -> tuple[Port, ...]:
    kernel = f"k{SPATIAL_NAMES[dims].replace(', ', ', k')}"
    axes = (
        f"(out, C / groups, {kernel}), or ({kernel}, C / groups, out) under `weight_layout: hwio`"
    )
    return (
        feature_map("input", dims, differentiable=True),
        Port("weight", axes, (dims + 2,), differentiable=True),
        Port("bias", "(out)", (1,), required=False, differentiable=True, fill=0.0),
    )


SPECS = tuple(
    LayerSpec(
        name=f"conv{dims}d",
        family="conv",
        summary=f"Weighted sums of each window over {SPATIAL[dims]}",
        options=ConvOptions,
        inputs=_ports(dims),
        outputs=(feature_map("output", dims),),
        plan=plan,
        run=run,
        parameters=parameter_shapes,
        shape_fields=ConvShapeFields,
        matrix_product=True,
        presets=presets(
            keras={"weight_layout": "hwio"},
            flax={"weight_layout": "hwio", "padding": "same_upper"},
        ),
        accuracy=CONVOLUTION,
        terms=convolved,
        independent=frozenset({"batch"}),
        formula="y[n, o] = bias[o] + sum over channels c and taps i of "
        "weight[o, c, i] * x[n, c, o * stride - padding + i * dilation]",
        differences=(
            "The default padding is 0 in torch, Keras and ONNX, and `same` in Flax.",
            "torch's `same` requires stride 1, and pads more at the end if uneven: `same_upper`.",
            "Weights are [out, in, *kernel] in torch and ONNX, and [*kernel, in, out] in Keras and "
            "Flax, whatever the layout of the input: `weight_layout`.",
        ),
        example=_example(dims),
        own_cases=_cases(dims),
    )
    for dims in (1, 2, 3)
)
