"""Folds a batch norm with running statistics into the convolution before it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from app.compute import bounds
from app.compute._tensors import TORCH_DTYPES, to_payload, to_torch
from app.compute.estimates import Estimate
from app.errors import InvalidRequest
from app.layers import LayerSpec
from app.schemas.tensors import DTYPES, Shapes, TensorPayload

WINDOWS, SEED = 16, 0
"""How many windows of random values the folded convolution is tried on."""
AT_ONCE = 1 << 16
"""Elements of the weight that are held in float64 at a time."""
COPIES = 6
NS_PER_ELEMENT = 100
OVERHEAD_MS = 2.0
HOST = torch.device("cpu")
LONGEST = 1 << 40
"""Length of an image that is only planned, and that any window fits into."""


@dataclass(frozen=True, slots=True)
class Folding:
    """What to fold: tensors by name, the weight as sent. `is_last` says that its last axis has the
    output channels and the one before it the input channels, instead of the first two.
    """

    conv: Mapping[str, TensorPayload]
    batch_norm: Mapping[str, TensorPayload]
    groups: int
    is_last: bool
    eps: float
    dtype: str


def check_pair(
    conv: tuple[LayerSpec, Any],
    norm: tuple[LayerSpec, Any],
    shapes: Mapping[str, Shapes],
    most: int,
) -> int:
    """Check the shapes and options of both parts; return the number of output channels.

    `shapes` are those of `conv` and `batch_norm`, by tensor; `most` is the limit of an extent.

    Raises:
        InvalidRequest: with pointers such as `#/batch_norm/running_var`.

    """
    with _part("conv"):
        spec, options = conv
        bounds.check_extents(options, most)
        weight = shapes["conv"]["weight"]
        if 0 in weight:
            detail = f"weight: all axes must be non-empty; got shape {list(weight)}"
            raise InvalidRequest.at("weight", "empty-axis", detail)
        channels = options.groups * weight[-2 if is_last(options) else 1]
        image = (1, channels, *(LONGEST,) * (len(weight) - 2))
        plan = spec.plan({"input": image, **shapes["conv"]}, options)
    with _part("batch_norm"):
        spec, options = norm
        channels = plan.outputs["output"][1]
        spec.plan({"input": (2, channels, 1), **shapes["batch_norm"]}, options)
    return channels


@contextmanager
def _part(name: str) -> Iterator[None]:
    """Errors point into a part of the request."""
    try:
        yield
    except InvalidRequest as error:
        raise error.within(name) from None


def is_last(conv_options: Any) -> bool:
    """Whether a convolution's weight has the output channels last, and the input channels before
    them, instead of both first.
    """
    return getattr(conv_options, "weight_layout", "oihw") == "hwio"


def fold_estimate(elements: int, channels: int, groups: int, dtype: str) -> Estimate:
    """Estimate the cost of folding into a weight with so many elements and output channels."""
    taps = elements // channels
    chunk = max(taps, min(elements, AT_ONCE))
    windows = WINDOWS * (2 * taps + chunk // max(1, channels // groups))
    return Estimate(
        OVERHEAD_MS + elements * NS_PER_ELEMENT / 1e6,
        8 * (COPIES * chunk + 2 * windows + 8 * channels)
        + 2 * (elements + channels) * DTYPES[dtype].itemsize,
        elements + channels,
    )


def fold(folding: Folding) -> dict[str, object]:
    """The weight and bias of one convolution that does what the pair does, by name.

    Each output channel is scaled by `weight / sqrt(running_var + eps)`.

    Raises:
        InvalidRequest: a variance below 0, or one of 0 with an eps of 0.

    """
    sent = to_torch(folding.conv["weight"], HOST, TORCH_DTYPES[folding.dtype])
    folded = torch.empty_like(sent)
    weight, result = (_by_group(tensor, folding) for tensor in (sent, folded))
    pair = _Pair(folding, len(sent) if not folding.is_last else sent.shape[-1])
    bias = pair.shift.to(sent.dtype)
    taps = math.prod(weight.shape[2:])
    windows = _windows(folding.groups, taps)
    errors = []
    for groups, rows in _parts(weight.shape[0], weight.shape[1], taps):
        exact = weight[groups, rows].double().flatten(2)
        seen = windows[torch.arange(groups.start, groups.stop) % len(windows)]
        of = (groups, rows, None)
        rounded = (exact * pair.by_group(pair.scale)[of]).to(sent.dtype)
        result[groups, rows] = rounded.view_as(result[groups, rows])
        folded_output = rounded.double() @ seen + pair.by_group(bias.double())[of]
        errors.append((folded_output - pair.of(exact @ seen, of)).abs().max())
    return {
        "dtype": folding.dtype,
        "weight": to_payload(folded, folding.dtype),
        "bias": to_payload(bias, folding.dtype),
        "max_abs_error": _named(torch.stack(errors).max().item()),
    }


def _by_group(weight: torch.Tensor, folding: Folding) -> torch.Tensor:
    """A weight as sent, viewed as (groups, out / groups, in / groups, *kernel)."""
    if folding.is_last:
        weight = weight.movedim((-1, -2), (0, 1))
    groups: torch.Tensor = weight.unflatten(0, (folding.groups, -1))
    return groups


class _Pair:
    """The bias of the convolution and the batch norm behind it, in float64, per output channel."""

    def __init__(self, folding: Folding, channels: int) -> None:
        norm = {
            name: to_torch(payload, HOST, torch.float64)
            for name, payload in folding.batch_norm.items()
        }
        self._groups = folding.groups
        self._mean, self._var, eps = norm["running_mean"], norm["running_var"], folding.eps
        _check_variances(self._var, eps)
        zeros = torch.zeros(channels, dtype=torch.float64)
        sent = folding.conv.get("bias")
        self._bias = zeros if sent is None else to_torch(sent, HOST, torch.float64)
        self._weight, self._shift = norm.get("weight", zeros + 1), norm.get("bias", zeros)
        self._root = (self._var + eps).sqrt()
        self.scale = self._weight / self._root
        self.shift = (self._bias - self._mean) * self.scale + self._shift

    def by_group(self, vector: torch.Tensor) -> torch.Tensor:
        """`(out) -> (groups, out / groups)`."""
        groups: torch.Tensor = vector.unflatten(0, (self._groups, -1))
        return groups

    def of(self, sums: torch.Tensor, of: Any) -> torch.Tensor:
        """What the pair makes of the convolution's sums, step by step as the layers do."""
        bias, mean, root, weight, shift = (
            self.by_group(vector)[of]
            for vector in (self._bias, self._mean, self._root, self._weight, self._shift)
        )
        return (sums + bias - mean) / root * weight + shift


def _check_variances(var: torch.Tensor, eps: float) -> None:
    if bool((var < 0).any()):
        detail = "running_var: variances must not be negative"
    elif bool((var + eps == 0).any()):
        detail = "running_var: a variance is 0, and eps too; send an eps greater than 0"
    else:
        return
    raise InvalidRequest.at("running_var", "out-of-range", detail).within("batch_norm")


def _windows(groups: int, taps: int) -> torch.Tensor:
    """`(groups, taps, windows)`: standard normal values, the same on every machine. Of very many
    groups, several share their windows.
    """
    own = min(groups, max(1, AT_ONCE // (WINDOWS * taps)))
    return torch.from_numpy(np.random.default_rng(SEED).standard_normal((own, taps, WINDOWS)))


def _parts(groups: int, rows: int, taps: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a weight of bounded size: some whole groups, or some output channels of one."""
    many = max(1, AT_ONCE // (rows * taps))
    few = max(1, AT_ONCE // taps)
    for group in range(0, groups, many):
        for row in range(0, rows, few):
            yield slice(group, min(group + many, groups)), slice(row, min(row + few, rows))


def _named(number: float) -> float | str:
    """A number as JSON has it."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity"
