"""The axes of a pooling or convolution, changed as a client changed them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F

from app.layers import Plan
from app.layers._windows import SlidingAxis
from app.layers.adaptive_pool import AdaptiveAxis

AnyAxis = SlidingAxis | AdaptiveAxis


@dataclass(frozen=True, slots=True)
class KeptAxis(SlidingAxis):
    """An axis with a given number of windows, whatever its padding allows."""

    windows: int

    @property
    def output(self) -> int:
        """Number of windows."""
        return self.windows


def kept(axis: SlidingAxis, **changes: int) -> KeptAxis:
    """The axis with changes, and as many windows as before.

    `keep` prevents average pooling from using torch's own, which would count windows itself.
    """
    own = {field.name: getattr(axis, field.name) for field in fields(SlidingAxis)}
    return KeptAxis(**{**own, **changes, "keep": True}, windows=axis.output)


def exact(axis: SlidingAxis, **changes: int) -> SlidingAxis:
    """The axis with changes, padded or cut to end with the last of as many windows as before."""
    own = {field.name: getattr(axis, field.name) for field in fields(SlidingAxis)}
    plain = SlidingAxis(**{**own, **changes, "ceil": False, "keep": False})
    return replace(plain, after=reach(plain, axis.output) - plain.input - plain.before)


def reach(axis: SlidingAxis, windows: int) -> int:
    """The length that `windows` windows extend over."""
    return (windows - 1) * axis.stride + axis.effective


def padded(x: torch.Tensor, axes: Sequence[SlidingAxis], fill: float) -> torch.Tensor:
    """`(N, C, *spatial) -> (N, C, *padded)`; where padding is negative, elements are cut off."""
    sides = [side for axis in reversed(axes) for side in (axis.before, axis.after)]
    x = F.pad(x, [max(side, 0) for side in sides], value=fill)
    for dim, axis in enumerate(axes, start=2):
        first, cut = max(-axis.before, 0), max(-axis.after, 0)
        x = x.narrow(dim, first, x.shape[dim] - first - cut)
    return x


def mirrored(axis: SlidingAxis) -> SlidingAxis:
    """The windows as they lie on the reversed input, in reversed order."""
    own = exact(axis)
    return replace(own, before=own.after, after=own.before)


def with_axes(plan: Plan, axes: Sequence[AnyAxis], **options: Any) -> Plan:
    """The plan with other axes and options."""
    if hasattr(plan.options, "ceil_mode"):
        options = {"ceil_mode": False, **options}
    return replace(plan, axes=tuple(axes), options=plan.options.model_copy(update=options))


def extent(axis: AnyAxis) -> int:
    """The most elements that a window has."""
    return axis.kernel if isinstance(axis, SlidingAxis) else axis.largest


def starts(axis: AnyAxis, device: torch.device) -> torch.Tensor:
    """`(out)`: the coordinate at which each window begins, which may lie in the padding."""
    index = torch.arange(axis.output, device=device)
    if isinstance(axis, SlidingAxis):
        return index * axis.stride - axis.before
    return (index * axis.input).div(max(axis.output, 1), rounding_mode="floor")


def firsts(axis: AnyAxis, device: torch.device) -> torch.Tensor:
    """`(out)`: the first coordinate of each window that is inside the input; -1 if none is."""
    first = starts(axis, device)
    if not isinstance(axis, SlidingAxis):
        return first
    skipped = first + (-first).clamp(min=0).add(axis.dilation - 1).div(
        axis.dilation, rounding_mode="floor"
    ).mul(axis.dilation)
    return torch.where(skipped < (first + axis.effective).clamp(max=axis.input), skipped, -1)


def counts(axis: AnyAxis, device: torch.device) -> torch.Tensor:
    """`(out)`: how many elements of the input each window holds."""
    first = firsts(axis, device)
    if not isinstance(axis, SlidingAxis):
        ends = -(-(torch.arange(1, axis.output + 1, device=device) * axis.input) // axis.output)
        return ends - first
    end = (starts(axis, device) + axis.effective).clamp(max=axis.input)
    return torch.where(
        first < 0, 0, (end - first - 1).div(axis.dilation, rounding_mode="floor") + 1
    )


def lasts(axis: AnyAxis, device: torch.device) -> torch.Tensor:
    """`(input)`: the last window that holds each element; -1 if none does."""
    at = torch.arange(axis.input, device=device)
    if not isinstance(axis, SlidingAxis):
        return ((at + 1) * axis.output - 1).div(axis.input, rounding_mode="floor")
    top = (at + axis.before).div(axis.stride, rounding_mode="floor").clamp(max=axis.output - 1)
    found = torch.full_like(at, -1)
    for step in range(axis.dilation):
        window = top - step
        tap = at + axis.before - window * axis.stride
        holds = (window >= 0) & (tap % axis.dilation == 0) & (tap < axis.effective)
        found = torch.where((found < 0) & holds, window, found)
    return found


def along(vectors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One vector per spatial axis, viewed to broadcast against each other."""
    last = len(vectors) - 1
    return [vector.view(-1, *[1] * (last - i)) for i, vector in enumerate(vectors)]


def outer(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The products of one vector per spatial axis."""
    product, *rest = along(vectors)
    for vector in rest:
        product = product * vector
    return product
