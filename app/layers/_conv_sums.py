"""Convolution as a whole, and gradients of its parameters in sums short enough for float32."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from app.layers._pooling import pad_by_hand
from app.layers._precision import LONGEST_SUM
from app.layers._spec import Plan
from app.layers._windows import SlidingAxis
from app.schemas.tensors import Shape

SMALL_PRODUCT = 1 << 19
"""Most elements of the unfolded input, and of the weight's gradients of all samples."""
MOST_COPIES = 4
"""How much larger than the input its overlapping pieces may be."""


def convolution(
    x: torch.Tensor, parameters: Iterable[torch.Tensor], plan: Plan, padding: Any = 0
) -> torch.Tensor:
    conv: Any = (F.conv1d, F.conv2d, F.conv3d)[len(plan.axes) - 1]
    strides, dilations = [a.stride for a in plan.axes], [a.dilation for a in plan.axes]
    output: torch.Tensor = conv(x, *parameters, strides, padding, dilations, plan.options.groups)
    return output


class SummedInPieces(torch.autograd.Function):
    """Convolves as a whole. The parameters' gradients are summed in float32 over the samples and
    positions of each piece of the output, and in float64 over the pieces.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        plan: Plan,
        padding: Any,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.plan, ctx.padding = plan, padding
        return convolution(x, (weight, bias), plan, padding)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (x, weight), plan = ctx.saved_tensors, ctx.plan
        to_input, *_ = _gradients(grad, x, weight, plan, ctx.padding, (True, False, False))
        if any(ctx.padding):
            x = pad_by_hand(x, plan.axes, 0.0)
        if by_sample(weight.shape, plan.outputs["output"], plan.options.groups):
            to_weight, to_bias = _summed_by_sample(x, grad, plan)
            return to_input, to_weight.view_as(weight).to(weight), to_bias.to(weight), None, None
        to_weight = weight.new_zeros(weight.shape, dtype=torch.float64)
        to_bias = weight.new_zeros(len(weight), dtype=torch.float64)
        for seen, of in _pieces(x, grad, plan):
            _, some, one = _gradients(of, seen, weight, plan, None, (False, True, True))
            to_weight += some
            to_bias += one
        return to_input, to_weight.to(weight), to_bias.to(weight), None, None


def by_sample(weight: Shape, output: Shape, groups: int) -> int:
    """Elements of the weight's gradients of all samples, if these are made one by one; else 0.

    For small images and weights, two matrix products take less time than several convolutions.
    """
    positions, samples = math.prod(output[2:]), output[0]
    products = samples * math.prod(weight[1:]) * max(positions * groups, weight[0])
    is_small = positions <= LONGEST_SUM and products <= SMALL_PRODUCT
    return samples * math.prod(weight) if is_small else 0


def _summed_by_sample(
    x: torch.Tensor, grad: torch.Tensor, plan: Plan
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of weight and bias, summed over positions in float32, over samples in float64.

    The input is padded.
    """
    axes, groups = plan.axes, plan.options.groups
    samples, channels = x.shape[:2]
    x = x.contiguous()
    steps = x.stride()
    windows = x.as_strided(
        (samples, channels, *(axis.kernel for axis in axes), *(axis.output for axis in axes)),
        (
            *steps[:2],
            *(step * axis.dilation for step, axis in zip(steps[2:], axes, strict=True)),
            *(step * axis.stride for step, axis in zip(steps[2:], axes, strict=True)),
        ),
    )
    positions = math.prod(axis.output for axis in axes)
    columns = windows.reshape(samples * groups, -1, positions)
    rows = grad.reshape(samples * groups, -1, positions)
    products = torch.bmm(rows, columns.transpose(1, 2)).view(samples, -1)
    to_bias = rows.sum(2).view(samples, -1)
    return products.sum(0, dtype=torch.float64), to_bias.sum(0, dtype=torch.float64)


def _gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    plan: Plan,
    padding: Any,
    wanted: tuple[bool, bool, bool],
) -> Any:
    """Gradients of input, weight, and bias, those that are wanted."""
    dims = len(plan.axes)
    return torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [len(weight)],
        [axis.stride for axis in plan.axes],
        padding or [0] * dims,
        [axis.dilation for axis in plan.axes],
        False,
        [0] * dims,
        plan.options.groups,
        wanted,
    )


def _pieces(
    x: torch.Tensor, grad: torch.Tensor, plan: Plan, dim: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The parts of a padded input, and those of the output's gradient that they make."""
    samples, lengths = _piece(plan.outputs["output"])
    if dim == 0:
        for part, of in zip(x.split(samples), grad.split(samples), strict=True):
            yield from _pieces(part, of, plan, 1)
    elif dim > len(plan.axes):
        yield x.contiguous(), grad.contiguous()
    else:
        axis, length = plan.axes[dim - 1], lengths[dim - 1]
        for first in range(0, axis.output, length):
            count = min(length, axis.output - first)
            part = x.narrow(
                dim + 1, first * axis.stride, (count - 1) * axis.stride + axis.effective
            )
            yield from _pieces(part, grad.narrow(dim + 1, first, count), plan, dim + 1)


def _piece(output: Shape) -> tuple[int, Shape]:
    """Samples and spatial lengths of a piece of the output with at most `LONGEST_SUM` positions."""
    room, lengths = LONGEST_SUM, []
    for length in (*reversed(output[2:]), output[0]):
        lengths.append(min(length, room) or 1)
        room //= lengths[-1]
    samples = lengths.pop()
    return samples, tuple(reversed(lengths))


def pieces_count(output: Shape) -> int:
    """Number of pieces of an output."""
    samples, lengths = _piece(output)
    along = zip((output[0], *output[2:]), (samples, *lengths), strict=True)
    return math.prod(-(-length // size) for length, size in along)


def copied_by_pieces(shape: Shape, output: Shape, axes: Sequence[SlidingAxis]) -> int:
    """Elements of the input that the pieces hold, which overlap; 0 if it is not cut into pieces.

    It is not if one is enough, or if they would hold much more than the input: a kernel that
    reaches far, as a dilated one does, overlaps from piece to piece.
    """
    if pieces_count(output) < 2:
        return 0
    _, lengths = _piece(output)
    copied = math.prod(shape[:2])
    for axis, size in zip(axes, lengths, strict=True):
        count = -(-axis.output // size)
        copied *= (axis.output - count) * axis.stride + count * axis.effective
    return copied if copied <= MOST_COPIES * math.prod(shape) else 0
