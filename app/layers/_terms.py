"""How long a layer's sums are, and how large the terms in them, which bounds any client's rounding.

A correct implementation may be off by a few roundings of the largest partial sum, not of the
result: terms of 1e4 that cancel to 0 leave an error of 1e-3 in float32.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Tensors = Mapping[str, torch.Tensor]
ROUNDINGS_OF_MEAN = 8
"""How many roundings of its mean a client's input may be off when the mean is subtracted."""
MOST_CANCELLED = 1e3
"""Largest factor by which a root magnifies the error of a sum that cancels."""


@dataclass(frozen=True, slots=True)
class Sums:
    """One run in float64, from which the terms of its sums are derived.

    `gradients` are those of the results, or None; `rtol` is the relative tolerance that sizes are
    multiplied by, and `unit` the unit roundoff of the dtype that a client computes in.
    """

    run: Callable[[Tensors, Any], Tensors]
    inputs: Tensors
    outputs: Tensors
    gradients: Tensors | None
    plan: Any
    rtol: float
    unit: float

    @property
    def gradient(self) -> torch.Tensor | None:
        """The gradient of the layer's one output."""
        return None if self.gradients is None else self.gradients["output"]


class Terms(NamedTuple):
    """The number of terms in a result's longest sum, and the size of their sum for each element:
    a tensor that broadcasts to the result's shape.
    """

    length: int
    size: torch.Tensor

    def of_row(self) -> "Terms":
        """The terms of a statistic, without the axis of its row's values."""
        return Terms(self.length, self.size.squeeze(-1))


def selected(sums: Sums) -> Mapping[str, Terms]:
    """Nothing is summed."""
    return {}


def selected_maximum(sums: Sums) -> Mapping[str, Terms]:
    """Maxima are exact; an element's gradient is summed over the windows that chose it."""
    if sums.gradients is None:
        return {}
    length = math.prod(axis.overlap for axis in sums.plan.axes)
    absolute = {name: gradient.abs() for name, gradient in sums.gradients.items()}
    gradients = _gradients(sums, sums.inputs, absolute)
    return {name: Terms(length, size.abs()) for name, size in gradients.items()}


def linear_in_window(sums: Sums) -> Mapping[str, Terms]:
    """Averages: the same sums, of absolute values."""
    taps = math.prod(axis.card().kernel for axis in sums.plan.axes)
    overlap = math.prod(axis.overlap for axis in sums.plan.axes)
    return _linear(sums, {"output": taps, "gradients.input": overlap})


def convolved(sums: Sums) -> Mapping[str, Terms]:
    """Convolutions: the same sums, of absolute values."""
    weight, output = sums.inputs["weight"].shape, sums.outputs["output"].shape
    positions = max(1, output[0] * math.prod(output[2:]))
    overlap = math.prod(axis.overlap for axis in sums.plan.axes)
    lengths = {
        "output": math.prod(weight[1:]) + 1,
        "gradients.input": weight[0] // sums.plan.options.groups * overlap,
        "gradients.weight": positions,
        "gradients.bias": positions,
    }
    return _linear(sums, lengths)


def _linear(sums: Sums, lengths: Mapping[str, int]) -> Mapping[str, Terms]:
    inputs = {name: tensor.abs() for name, tensor in sums.inputs.items()}
    found = {"output": sums.run(inputs, sums.plan)["output"]}
    if sums.gradients is not None:
        absolute = {name: gradient.abs() for name, gradient in sums.gradients.items()}
        found |= _gradients(sums, inputs, absolute)
    return {name: Terms(lengths[name], size.abs()) for name, size in found.items()}


def powers_in_window(sums: Sums) -> Mapping[str, Terms]:
    """Lp pooling: a sum of powers that cancels has a root with a magnified error."""
    p = sums.plan.options.norm_type
    inputs = {"input": sums.inputs["input"].abs()}
    size = sums.run(inputs, sums.plan)["output"]
    size = size * _ratio(size, sums.outputs["output"].abs()).pow(p - 1).clamp(1, MOST_CANCELLED)
    taps = math.prod(axis.kernel for axis in sums.plan.axes)
    found = {"output": Terms(taps, size)}
    if sums.gradients is not None:
        scale = _ratio(size, sums.outputs["output"].abs()).pow(p - 1).clamp(1, MOST_CANCELLED)
        absolute = {"output": sums.gradients["output"].abs() * scale}
        overlap = math.prod(axis.overlap for axis in sums.plan.axes)
        for name, gradient in _gradients(sums, inputs, absolute).items():
            found[name] = Terms(overlap, gradient.abs())
    return found


def _ratio(whole: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    return torch.where(rest > 0, whole / rest, math.inf)


def _gradients(sums: Sums, inputs: Tensors, gradients: Tensors) -> dict[str, torch.Tensor]:
    """Gradients of a run on other inputs, for those that the request's gradients are taken of."""
    leaves = {
        name: tensor.detach().requires_grad_()
        for name, tensor in inputs.items()
        if sums.inputs[name].requires_grad
    }
    with torch.enable_grad():
        outputs = sums.run({**inputs, **leaves}, sums.plan)
        chosen = tuple(outputs[name] for name in gradients)
        given = tuple(g.to(o) for g, o in zip(gradients.values(), chosen, strict=True))
        found = torch.autograd.grad(chosen, tuple(leaves.values()), given, allow_unused=True)
    return {
        f"gradients.{name}": torch.zeros_like(leaves[name]) if gradient is None else gradient
        for name, gradient in zip(leaves, found, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a norm groups its values: `rows` views a tensor of the input's shape as `(..., values)`
    with one statistic a row, `back` is its inverse, `spread` repeats a weight to the input's shape,
    and `folded` sums a tensor of the input's shape to the weight's.
    """

    rows: Callable[[torch.Tensor], torch.Tensor]
    back: Callable[[torch.Tensor], torch.Tensor]
    spread: Callable[[torch.Tensor], torch.Tensor]
    folded: Callable[[torch.Tensor], torch.Tensor]


def by_channel(x: torch.Tensor, rows: Any, back: Any) -> Grouping:
    """The grouping of `(N, C, *spatial)` with one weight per channel."""
    others = (0, *range(2, x.dim()))
    return Grouping(
        rows,
        back,
        lambda vector: vector.view(-1, *[1] * (x.dim() - 2)).expand_as(x),
        lambda tensor: tensor.sum(others),
    )


class NormTerms(NamedTuple):
    """The terms of a norm's results: of the output and the gradients by name; and of each row's
    mean and variance, `(..., 1)`.
    """

    results: dict[str, Terms]
    mean: Terms
    var: Terms


def normalized(
    sums: Sums,
    x: torch.Tensor,
    grouping: Grouping,
    gradient: torch.Tensor | None,
    known: tuple[torch.Tensor, torch.Tensor] | None = None,
    *,
    around_zero: torch.Tensor | None = None,
) -> NormTerms:
    """The terms of a norm of `x`; `known` are its mean and 1 / std a row if they are not its own,
    and `around_zero` is 1 / rms a row if no mean is subtracted.

    A client that subtracts a large mean in its own dtype is off by some roundings of that mean.
    """
    values = grouping.rows(x)
    if around_zero is not None:
        mean, inv_std = torch.zeros_like(around_zero), around_zero
    else:
        mean, inv_std = known or statistics_of(values, sums.plan.options.eps)
    weight = grouping.rows(grouping.spread(sums.inputs["weight"])).abs()
    weight = weight + getattr(sums.plan.options, "weight_offset", 0)
    bias = sums.inputs.get("bias")
    near = (values - mean).abs() * inv_std + 1
    off = ROUNDINGS_OF_MEAN * sums.unit / sums.rtol * mean.abs() * inv_std
    output = grouping.back(weight * (near + off))
    if bias is not None:
        output = output + grouping.spread(bias).abs()
    count = values.shape[-1]
    results = {"output": Terms(count, output)}
    if gradient is not None:
        direct = grouping.rows(gradient).abs()
        passed = weight * direct
        if known is None:
            passed = passed + (near + 2 * off) * (passed * near).mean(-1, keepdim=True)
        positions = max(1, x.numel() // max(1, sums.inputs["weight"].numel()))
        results |= {
            "gradients.input": Terms(count, grouping.back(passed * inv_std)),
            "gradients.weight": Terms(
                positions, grouping.folded(grouping.back(direct * (near + off)))
            ),
            "gradients.bias": Terms(positions, grouping.folded(gradient.abs())),
        }
    level = values.abs().mean(-1, keepdim=True)
    var = (level * ROUNDINGS_OF_MEAN * sums.unit) ** 2 / sums.rtol
    return NormTerms(results, Terms(count, level), Terms(count, var))


def statistics_of(rows: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and 1 / sqrt(biased variance + eps) of each row, `(..., 1)`."""
    if not rows.numel():
        nothing = rows.new_zeros((*rows.shape[:-1], 1))
        return nothing, nothing
    var, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
    return mean, (var + eps).rsqrt()
