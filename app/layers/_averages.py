"""Divided sums over sliding windows, shared by average and Lp pooling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from app.layers._pooling import pad_by_hand, padded_elements
from app.layers._precision import WIDE, widened_workspace
from app.layers._windows import SlidingAxis, inside
from app.schemas.tensors import Shape

TAP_NS = 6_000
DIVISOR_COST = 40
DIVISOR_COPIES = 8
"""Operations and float32 elements per window and axis for computing the 64-bit divisors."""


@dataclass(frozen=True, slots=True)
class Averages:
    """Windows over some axes, with the divisors of their sums.

    The flags say whether padding, and taps in ceil mode's overhang, count toward the divisor.
    `override` is a fixed divisor for every window.
    """

    axes: tuple[SlidingAxis, ...]
    count_include_pad: bool
    overhang_counts: bool
    override: int | None

    @property
    def is_native(self) -> bool:
        """Whether torch's own average pooling gives the same result and accepts the arguments."""
        axes = self.axes
        return (not self.overhang_counts or not any(a.overhang for a in axes)) and all(
            a.dilation == 1
            and a.before == a.after <= a.kernel // 2
            and a.kernel <= a.input
            and not a.keep
            for a in axes
        )

    def cost(self, output: Shape) -> int:
        """Number of additions: one per tap, or by hand, one per tap of each axis in turn."""
        if self.is_native:
            return math.prod(output) * math.prod(a.kernel for a in self.axes)
        counts = DIVISOR_COST * sum(a.output for a in self.axes)
        return self._padded(output) * sum(a.kernel for a in self.axes) + counts

    @property
    def overhead_ns(self) -> float:
        """Fixed overhead of the taps that are added one by one, whatever their size."""
        return 0 if self.is_native else TAP_NS * sum(a.kernel for a in self.axes)

    def workspace(self, output: Shape) -> int:
        """Working memory, in float32 elements."""
        if self.is_native:
            inputs = math.prod(output[:2]) * math.prod(a.input for a in self.axes)
            return widened_workspace(inputs, math.prod(output))
        divisors = DIVISOR_COPIES * sum(a.output for a in self.axes)
        return WIDE * 2 * self._padded(output) + divisors

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, *spatial) -> (N, C, *out)`, in float64, so that rounding once is exact."""
        if self.is_native:
            return self._native(x.double())
        total = pad_by_hand(x.double(), self.axes, 0.0)
        for dim, axis in enumerate(self.axes, start=2):
            total = _Sums.apply(total, dim, axis)  # type: ignore[no-untyped-call]
        return total / self.divisors().to(total)

    def seen(self) -> torch.Tensor:
        """`(*spatial)`: which elements are in at least one window."""
        seen = torch.ones((), dtype=torch.bool)
        for axis in self.axes:
            reached = torch.zeros(axis.padded + axis.overhang, dtype=torch.bool)
            for tap in range(axis.kernel):
                reached[axis.tap_slice(tap)] = True
            seen = seen.unsqueeze(-1) & reached[axis.before : axis.before + axis.input]
        return seen

    def divisors(self) -> torch.Tensor:
        """`(*out)`: the divisor of each window's sum; 1 for empty windows."""
        if self.override is not None:
            return torch.full([a.output for a in self.axes], self.override)
        divisors = torch.ones((), dtype=torch.float64)
        for axis in self.axes:
            divisors = divisors.unsqueeze(-1) * self._counts(axis)
        return divisors.clamp(min=1)

    def divisor(self, index: tuple[int, ...]) -> int | None:
        """The divisor of the sum of the window at `index`; None if no tap counts."""
        if self.override is not None:
            return self.override
        counted = (self._counted(axis, i) for axis, i in zip(self.axes, index, strict=True))
        return math.prod(counted) or None

    def _counted(self, axis: SlidingAxis, index: int) -> int:
        if self.count_include_pad and self.overhang_counts:
            return axis.kernel
        padded = self.count_include_pad
        first, last = -axis.before * padded, axis.input + axis.after * padded
        return len(inside(axis.taps(index), first, last))

    def _padded(self, output: Shape) -> int:
        return padded_elements(math.prod(output[:2]), self.axes)

    def _native(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = [a.kernel for a in self.axes], [a.stride for a in self.axes]
        padding = [a.before for a in self.axes]
        rest = (self.axes[0].ceil, self.count_include_pad)
        if len(self.axes) > 1:
            pool: Any = F.avg_pool2d if len(self.axes) == 2 else F.avg_pool3d
            return pool(x, kernel, stride, padding, *rest, self.override)  # type: ignore[no-any-return]
        if self.override is None:
            return F.avg_pool1d(x, kernel, stride, padding, *rest)
        flat = F.avg_pool2d(
            x.unsqueeze(2), [1, *kernel], [1, *stride], [0, *padding], *rest, self.override
        )
        return flat.squeeze(2)

    def _counts(self, axis: SlidingAxis) -> torch.Tensor:
        """`(out)`: how many taps of each window count toward the divisor along one axis."""
        if self.count_include_pad and self.overhang_counts:
            return torch.full((axis.output,), axis.kernel)
        first, last = 0, axis.input
        if self.count_include_pad:
            first, last = -axis.before, axis.input + axis.after
        starts = torch.arange(axis.output) * axis.stride - axis.before
        below, counted = (
            (-((starts - bound) // axis.dilation)).clamp(0, axis.kernel) for bound in (first, last)
        )
        return counted - below


class _Sums(torch.autograd.Function):
    """`(..., padded, ...) -> (..., out, ...)`: sums of the windows along one axis.

    Avoids the copy of the input per tap that autograd makes for the gradient of a slice.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, axis: SlidingAxis) -> torch.Tensor:
        ctx.shape, ctx.taps = x.shape, [_tap(dim, axis, i) for i in range(axis.kernel)]
        total = x[ctx.taps[0]].clone()
        for tap in ctx.taps[1:]:
            total += x[tap]
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        spread = grad.new_zeros(ctx.shape)
        for tap in ctx.taps:
            spread[tap] += grad
        return spread, None, None


def _tap(dim: int, axis: SlidingAxis, tap: int) -> tuple[slice, ...]:
    return (*(slice(None),) * dim, axis.tap_slice(tap))


def window_elements(axes: Sequence[SlidingAxis]) -> int:
    """Number of taps in a full window."""
    return math.prod(axis.kernel for axis in axes)
