"""Sliding windows: the output-size formula, padding and ceil mode, in exact integers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import EmptyWindow, FieldError, InvalidRequest
from app.schemas.answers import AxisCard
from app.schemas.options import Convention, Flag, LayerOptions, Padding, Size
from app.schemas.tensors import Shape


class WindowOptions(LayerOptions):
    """Options shared by all pooling layers with sliding windows."""

    kernel_size: Size
    """Size of the window along each spatial axis."""
    stride: Size | None = None
    """Distance between windows; null: the convention's default, which is the kernel size or 1."""
    padding: Padding = 0
    """Padding around the input: numbers, pairs [before, after], or a mode. It is never a maximum,
    and counts as 0 in a sum."""
    dilation: Size = 1
    """Distance between the elements of a window."""
    ceil_mode: Flag = False
    """Whether the last window may extend beyond the padding; not with `same` padding, which
    determines the output size by itself."""
    ceil_rule: Literal["drop", "keep"] = "drop"
    """Whether ceil mode drops or keeps a last window that starts after the end of the input."""


EMPTY_WINDOWS: Mapping[str, Any] = {"dilation": 7, "padding": [[6, 4]], "stride": 1}
"""Options under which some windows of a case contain only padding, for a `kernel_size` of 2."""


def window_choices(dims: int) -> tuple[Mapping[str, Any], ...]:
    """Options that cover the window options, for a `kernel_size` of 2."""
    return (
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"stride": None, "padding": [[1, 0]], "ceil_mode": True, "ceil_rule": "keep"},
        {"padding": "valid", "ceil_mode": False, "ceil_rule": "drop"},
        {"stride": 1, "padding": "same"},
        {"stride": 1, "padding": "same_upper", "dilation": 2},
        {"stride": 3, "padding": "same_lower"},
        {
            "kernel_size": [2, 1, 3][:dims],
            "stride": [1, 2, 1][:dims],
            "padding": [1, 0, 1][:dims],
            "dilation": [2, 3, 1][:dims],
        },
    )


@dataclass(frozen=True, slots=True)
class SlidingAxis:
    """A window of `kernel` taps, `dilation` apart, that moves by `stride` over one axis.

    `output = floor_or_ceil((input + before + after - effective) / stride) + 1`. Ceil mode's last
    window is dropped if it would start in the padding behind the input, unless `keep`.
    Source: torch `pooling_output_shape`; the rule is Caffe's (BVLC/caffe#3229).
    """

    input: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    ceil: bool
    keep: bool

    @property
    def effective(self) -> int:
        """The window's extent including dilation, in elements."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> int:
        """Length including both paddings, in elements."""
        return self.input + self.before + self.after

    @property
    def full(self) -> int:
        """Number of windows before any is dropped."""
        room = self.padded - self.effective
        return (-(-room // self.stride) if self.ceil else room // self.stride) + 1

    @property
    def dropped(self) -> bool:
        """Whether ceil mode's last window is dropped."""
        return (
            self.ceil
            and not self.keep
            and (self.full - 1) * self.stride >= self.input + self.before
        )

    @property
    def output(self) -> int:
        """Number of windows."""
        return self.full - self.dropped

    @property
    def overhang(self) -> int:
        """How far ceil mode's last window reaches beyond the padding, in elements."""
        return max(0, (self.output - 1) * self.stride + self.effective - self.padded)

    @property
    def overlap(self) -> int:
        """Upper bound on how many windows an element is in."""
        return min(self.kernel, self.output, -(-self.effective // self.stride))

    def taps(self, index: int) -> range:
        """Input coordinates of window `index`; those outside the input are padding."""
        start = index * self.stride - self.before
        return range(start, start + self.effective, self.dilation)

    def tap_slice(self, tap: int) -> slice:
        """Where tap number `tap` of every window lies on the padded axis."""
        start = tap * self.dilation
        return slice(start, start + (self.output - 1) * self.stride + 1, self.stride)

    def window_slice(self, index: int) -> slice:
        """Where the taps of window `index` lie on the padded axis."""
        start = index * self.stride
        return slice(start, start + self.effective, self.dilation)

    def real(self, index: int) -> int:
        """How many taps of window `index` are elements of the input."""
        return len(inside(self.taps(index), 0, self.input))

    def empty_windows(self) -> bool:
        """Whether any window contains only padding.

        Among the leading windows, the first reaches least far into the input; apart from that,
        whether their taps step over the input repeats periodically.
        """
        period = self.dilation // math.gcd(self.stride, self.dilation)
        leading = range(min(self.output, -(-self.before // self.stride), period))
        last = self.output - 1
        return any(not self.real(index) for index in leading) or (last >= 0 and not self.real(last))

    def card(self) -> AxisCard:
        """The explanation of the axis."""
        rounding = "ceil" if self.ceil else "floor"
        formula = (
            f"{rounding}(({self.input} + {self.before} + {self.after} - {self.dilation} * "
            f"({self.kernel} - 1) - 1) / {self.stride}) + 1 = {self.full}"
        )
        reason = None
        if self.dropped:
            formula += f", less the dropped window = {self.output}"
            reason = (
                f"the last window would start at {(self.full - 1) * self.stride}, at or behind "
                f"the end of input and leading padding, {self.input + self.before}"
            )
        return AxisCard(
            input=self.input,
            kernel=self.kernel,
            effective_kernel=self.effective,
            padding=(self.before, self.after),
            stride=self.stride,
            formula=formula,
            output=self.output,
            dropped_window=self.dropped,
            dropped_window_reason=reason,
        )


def inside(taps: range, start: int, end: int) -> range:
    """The part of `taps` within [start, end)."""
    skip = max(0, -(-(start - taps.start) // taps.step))
    stop = max(0, -(-(end - taps.start) // taps.step))
    return taps[skip : min(stop, len(taps))]


def per_axis(field: str, value: Any, dims: int) -> tuple[Any, ...]:
    """Expand to one entry per axis; a single value, or a list with one, applies to every axis."""
    entries = value if isinstance(value, tuple) else (value,)
    if len(entries) == 1:
        return tuple(entries) * dims
    if len(entries) != dims:
        detail = (
            f"{field}: expected one value, or one per spatial axis ({dims}); got {len(entries)}"
        )
        raise InvalidRequest.at(field, "wrong-length", detail)
    return tuple(entries)


def sliding_axes(spatial: Shape, options: Any) -> tuple[SlidingAxis, ...]:
    """The windows of a pooling layer over these spatial lengths.

    Raises:
        InvalidRequest: lists of the wrong length, padding that is too large, a window longer than
            its axis, or ceil mode combined with `same`.

    """
    kernels = per_axis("kernel_size", options.kernel_size, len(spatial))
    if options.ceil_mode and _is_same(options.padding):
        detail = (
            f'ceil_mode: cannot be combined with padding "{options.padding}", which determines the '
            "output size by itself; omit one of them"
        )
        raise InvalidRequest.at("ceil_mode", "conflict", detail)
    axes = window_axes(spatial, kernels, options, blame="kernel_size")
    if not _is_same(options.padding):
        for index, axis in enumerate(axes):
            _check_padding(axis, index, options.convention)
    return axes


def window_axes(
    spatial: Shape, kernels: Shape, options: Any, *, blame: str
) -> tuple[SlidingAxis, ...]:
    """The windows of `kernels` over these spatial lengths, with any padding.

    Raises:
        InvalidRequest: lists of the wrong length, or a window longer than its axis, in which case
            the error points to the field `blame`.

    """
    dims = len(spatial)
    strides = kernels if options.stride is None else per_axis("stride", options.stride, dims)
    dilations = per_axis("dilation", options.dilation, dims)
    axes = []
    for index, (length, kernel, stride, dilation) in enumerate(
        zip(spatial, kernels, strides, dilations, strict=True)
    ):
        effective = dilation * (kernel - 1) + 1
        before, after = _padding(options.padding, index, dims, length, effective, stride)
        axis = SlidingAxis(
            input=length,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            before=before,
            after=after,
            ceil=getattr(options, "ceil_mode", False),
            keep=getattr(options, "ceil_rule", "drop") == "keep",
        )
        if axis.output < 1:
            detail = (
                f"{blame}: the window spans {effective} elements along spatial axis {index}, where "
                f"the input has {length} and padding {before} + {after}. Use a smaller kernel or "
                "dilation, or more padding"
            )
            raise InvalidRequest.at(blame, "window-too-large", detail)
        axes.append(axis)
    return tuple(axes)


def _is_same(padding: Any) -> bool:
    return isinstance(padding, str) and padding != "valid"


def _padding(
    padding: Any, index: int, dims: int, length: int, effective: int, stride: int
) -> tuple[int, int]:
    """Padding before and after one axis, in elements."""
    if padding == "valid":
        return 0, 0
    if isinstance(padding, str):
        total = max((-(-length // stride) - 1) * stride + effective - length, 0)
        small, large = total // 2, total - total // 2
        return (large, small) if padding == "same_lower" else (small, large)
    entry = per_axis("padding", padding, dims)[index]
    before, after = entry if isinstance(entry, tuple) else (entry, entry)
    return before, after


def _check_padding(axis: SlidingAxis, index: int, convention: Convention) -> None:
    halved = convention == "torch" and axis.before == axis.after
    limit = axis.effective // 2 if halved else axis.effective - 1
    if max(axis.before, axis.after) > limit:
        rule = "at most half of" if halved else "smaller than"
        detail = (
            f"padding: expected {rule} the effective kernel, {axis.effective}, on spatial axis "
            f"{index}; got {axis.before} before and {axis.after} after"
        )
        raise InvalidRequest.at("padding", "out-of-range", detail)


def refuse_empty_windows(axes: Iterable[SlidingAxis], fillings: str) -> None:
    """Refuse windows that contain only padding; `fillings` names the values of `empty_window` that
    accept them.
    """
    for index, axis in enumerate(axes):
        if axis.empty_windows():
            detail = (
                f"padding: a window along spatial axis {index} contains only padding, with input "
                f"{axis.input}, kernel {axis.kernel}, dilation {axis.dilation}, stride "
                f"{axis.stride}, padding {axis.before} + {axis.after}. Use less padding or a "
                f"smaller dilation, or choose its result with `empty_window`: {fillings}"
            )
            raise EmptyWindow(detail, [FieldError("#/padding", "empty-window", detail)])


def explicit(axes: tuple[SlidingAxis, ...]) -> dict[str, Any]:
    """The window options as used, in the form that requests accept."""
    return {
        "kernel_size": tuple(axis.kernel for axis in axes),
        "stride": tuple(axis.stride for axis in axes),
        "padding": tuple((axis.before, axis.after) for axis in axes),
        "dilation": tuple(axis.dilation for axis in axes),
    }
