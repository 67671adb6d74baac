"""Walks over windows: tap by tap of every window, or window by window of every element."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from app.faults._axes import AnyAxis, lasts, starts
from app.layers._windows import SlidingAxis

NONE = -1
Walk = Sequence[Sequence[torch.Tensor]]
"""For each axis, where each step is: `(out)` coordinates, or `(input)` windows, or `NONE`."""


def taps(axis: AnyAxis, device: torch.device) -> list[torch.Tensor]:
    """`(out)` for each tap: the coordinate that each window reads."""
    begins = starts(axis, device)
    if isinstance(axis, SlidingAxis):
        at = [begins + tap * axis.dilation for tap in range(axis.kernel)]
        return [torch.where((a < 0) | (a >= axis.input), NONE, a) for a in at]
    ends = -(-(torch.arange(1, axis.output + 1, device=device) * axis.input) // axis.output)
    return [torch.where(begins + t < ends, begins + t, NONE) for t in range(axis.largest)]


def holders(axis: AnyAxis, device: torch.device) -> list[torch.Tensor]:
    """`(input)` for each step: a window that holds each element, in ascending order."""
    at = torch.arange(axis.input, device=device)
    if not isinstance(axis, SlidingAxis):
        first, last = at * axis.output // axis.input, lasts(axis, device)
        steps = [first + step for step in range(most_holders(axis))]
        return [torch.where(window <= last, window, NONE) for window in steps]
    found = []
    for tap in reversed(range(axis.kernel)):
        begin = at + axis.before - tap * axis.dilation
        window = begin.div(axis.stride, rounding_mode="floor")
        holds = (begin % axis.stride == 0) & (window >= 0) & (window < axis.output)
        found.append(torch.where(holds, window, NONE))
    return found


def most_holders(axis: AnyAxis) -> int:
    """How many steps `holders` has."""
    return axis.kernel if isinstance(axis, SlidingAxis) else axis.overlap


def walked(x: torch.Tensor, walk: Walk, fill: float = 0) -> Iterator[torch.Tensor]:
    """`(N, C, *steps)` for each combination of steps, row-major; `fill` where one is nowhere."""
    dims = len(walk)
    padded = F.pad(x, [0, 1] * dims, value=fill)
    ends = padded.shape[-dims:]
    yield from _stepping(
        padded,
        [
            [torch.where(at < 0, end - 1, at) for at in steps]
            for steps, end in zip(walk, ends, strict=True)
        ],
    )


def _stepping(padded: torch.Tensor, walk: Walk) -> Iterator[torch.Tensor]:
    first, *rest = walk
    for at in first:
        chosen = padded.index_select(padded.dim() - len(walk), at)
        if rest:
            yield from _stepping(chosen, rest)
        else:
            yield chosen
