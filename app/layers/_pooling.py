"""Shared by the pooling families: ports, padding by hand, and notes on windows."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from app.layers._spec import MAX_WINDOWS, Axis, Notes, Plan
from app.layers._windows import SlidingAxis, inside
from app.schemas.answers import Advice, WindowCard

Describe = Callable[[torch.Tensor, tuple[range, ...], tuple[int, ...]], dict[str, object]]
AGGRESSIVE_REDUCTION = 16

TIED = Advice(
    code="tied-maximum",
    message="Some windows contain their maximum more than once.",
    suggestion='The gradient goes to the first; `tie: "split"` divides it evenly.',
)
NAN_IN_WINDOW = Advice(
    code="nan-in-window",
    message="Some windows contain NaN.",
    suggestion='NaN is the maximum of its window; `nan: "ignore"` ignores it.',
)
LOCALISATION_LOSS = Advice(
    code="localisation-loss",
    message="One value per channel remains: its position is lost.",
    suggestion="Keep the spatial axes for detection or segmentation.",
)
AGGRESSIVE = Advice(
    code="aggressive-pooling",
    message=f"This layer keeps fewer than one position in {AGGRESSIVE_REDUCTION}.",
    suggestion="Pool in several smaller steps, with convolutions in between.",
)
STRIDED_CONVOLUTION = Advice(
    code="strided-convolution-alternative",
    message="This layer reduces the resolution by a fixed rule.",
    suggestion="A convolution with the same stride learns the reduction instead.",
)
GLOBAL_AVERAGE = Advice(
    code="global-average-before-head",
    message="The window covers the whole input.",
    suggestion="`global_avg_pool` does the same for every input size.",
)


def pad_by_hand(x: torch.Tensor, axes: Sequence[SlidingAxis], value: float) -> torch.Tensor:
    """`(N, C, *spatial) -> (N, C, *padded)`, ceil mode's overhang included."""
    pads = [side for a in reversed(axes) for side in (a.before, a.after + a.overhang)]
    return F.pad(x, pads, value=value)


def padded_elements(lead: int, axes: Sequence[SlidingAxis]) -> int:
    """Elements of a tensor padded by hand."""
    return lead * math.prod(a.padded + a.overhang for a in axes)


def reduction_advice(axes: Sequence[Axis], lengths: Sequence[int]) -> list[Advice]:
    """Advice that depends only on the shapes."""
    outputs = math.prod(axis.output for axis in axes)
    inputs = math.prod(lengths)
    if outputs == 1 < inputs:
        return [LOCALISATION_LOSS]
    if outputs * AGGRESSIVE_REDUCTION < inputs:
        return [AGGRESSIVE, STRIDED_CONVOLUTION]
    return [STRIDED_CONVOLUTION] if outputs < inputs else []


def _nothing(
    elements: torch.Tensor, real: tuple[range, ...], index: tuple[int, ...]
) -> dict[str, object]:
    return {}


def window_notes(
    x: torch.Tensor,
    plan: Plan,
    describe: Describe = _nothing,
) -> tuple[tuple[WindowCard, ...], bool]:
    """Cards for the first windows, in the output's order, and whether some were left out.

    `describe(elements, real, index)` adds a family's own facts about a window, given its elements,
    their coordinates on each axis, and the index of the output position.
    """
    axes: tuple[Axis, ...] = plan.axes
    lengths = x.shape[2:]
    shape = (*x.shape[:2], *(axis.output for axis in axes))
    cards = []
    # `product` makes lists of these ranges, so keep them no longer than can be reached.
    ranges = (range(min(length, MAX_WINDOWS)) for length in shape)
    for sample, channel, *index in itertools.islice(itertools.product(*ranges), MAX_WINDOWS):
        taps = tuple(axis.taps(i) for axis, i in zip(axes, index, strict=True))
        real = tuple(inside(t, 0, length) for t, length in zip(taps, lengths, strict=True))
        elements = x[sample, channel][tuple(slice(r.start, r.stop, r.step) for r in real)]
        cards.append(
            WindowCard.model_validate(
                {
                    "output": (sample, channel, *index),
                    "region": tuple((t.start, t[-1] + 1) for t in taps),
                    "padding_taps": math.prod(map(len, taps)) - math.prod(map(len, real)),
                    **describe(elements, real, tuple(index)),
                }
            )
        )
    return tuple(cards), math.prod(shape) > MAX_WINDOWS


def max_notes(x: torch.Tensor, plan: Plan, *, ignore_nan: bool = False) -> Notes:
    """Where each window's maximum is, and how often it occurs."""
    source = torch.where(x.isnan(), -math.inf, x) if ignore_nan else x

    def describe(
        elements: torch.Tensor, real: tuple[range, ...], index: tuple[int, ...]
    ) -> dict[str, object]:
        flat = elements.flatten()
        if not len(flat):
            return {"ties": 0}
        nans = flat.isnan().nonzero().flatten()
        winners = nans if len(nans) else (flat == flat.max()).nonzero().flatten()
        rest = int(winners[-1] if len(nans) else winners[0])
        argmax = []
        for axis in reversed(real):
            rest, position = divmod(rest, len(axis))
            argmax.append(axis[position])
        return {"argmax": tuple(reversed(argmax)), "ties": len(winners)}

    windows, truncated = window_notes(source, plan, describe)
    advice = reduction_advice(plan.axes, x.shape[2:])
    if any((window.ties or 0) > 1 for window in windows):
        advice.append(TIED)
    if x.isnan().any():
        advice.append(NAN_IN_WINDOW)
    return Notes(windows, truncated, tuple(advice))


def average_notes(
    x: torch.Tensor,
    plan: Plan,
    divisor: Callable[[tuple[int, ...]], int | None] | None = None,
    *,
    is_global: bool = False,
) -> Notes:
    """The divisor of each window's sum; without `divisor`, its number of elements."""

    def describe(
        elements: torch.Tensor, real: tuple[range, ...], index: tuple[int, ...]
    ) -> dict[str, object]:
        return {"divisor": divisor(index) if divisor else elements.numel()}

    windows, truncated = window_notes(x, plan, describe)
    advice = reduction_advice(plan.axes, x.shape[2:])
    if advice and advice[0] is LOCALISATION_LOSS and not is_global:
        advice.append(GLOBAL_AVERAGE)
    if x.isnan().any():
        advice.append(NAN_IN_WINDOW)
    return Notes(windows, truncated, tuple(advice))
