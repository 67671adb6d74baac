"""Faults of every norm: mean, variance, eps, and gradient."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._norm import (
    NORMS,
    Rule,
    is_rms,
    is_training,
    normalized,
    room,
    summed_in_order,
    together,
)
from app.layers import LayerSpec, Plan, Tensors

Layer = Callable[[LayerSpec], LayerSpec]
Mean = Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]


def by_rule(rule: Rule, *, with_rms: bool = True) -> Layer:
    """The norm by another rule."""

    def layer(spec: LayerSpec) -> LayerSpec:
        if is_rms(spec) and not with_rms:
            return spec
        return rebuilt(spec, lambda tensors, plan: normalized(spec, tensors, plan, rule), room=room)

    return layer


def by_fast_variance(sums: str) -> Layer:
    """E[x^2] - E[x]^2, clipped at 0, in the input's dtype; in float32 for half types. The means
    are torch's or numpy's, or added one after the other.
    """
    mean = {"torch": _mean, "numpy": _numpy_mean, "in order": _mean_in_order}[sums]

    def variance(values: torch.Tensor, center: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        return (mean(values * values, dims) - center * center).clamp(min=0)

    rule = Rule(mean=mean, variance=variance)

    def layer(spec: LayerSpec) -> LayerSpec:
        if is_rms(spec):
            return spec

        def run(tensors: Tensors, plan: Plan) -> Tensors:
            wide = {
                name: tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
                for name, tensor in tensors.items()
            }
            return normalized(spec, wide, plan, rule)

        return rebuilt(spec, run, room=room)

    return layer


def by_fast_variance_in_halves(sums: Mean, center: Mean, *, throughout: bool = False) -> Layer:
    """E[x^2] - E[x]^2, clipped at 0, each step rounded to the half type; so is normalization after
    it, if `throughout`, and otherwise it is in float32. `sums` are the means of the variance,
    `center` is that which the values are centered on.
    """

    def layer(spec: LayerSpec) -> LayerSpec:
        if is_rms(spec):
            return spec

        def run(tensors: Tensors, plan: Plan) -> Tensors:
            dtype = next(iter(tensors.values())).dtype
            wide = tensors
            if not throughout:
                wide = {name: tensor.float() for name, tensor in tensors.items()}

            def mean(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
                return center(values.to(dtype), dims).to(values.dtype)

            def variance(
                values: torch.Tensor, _: torch.Tensor, dims: tuple[int, ...]
            ) -> torch.Tensor:
                halves = values.to(dtype)
                fast = sums(halves.square(), dims) - sums(halves, dims).square()
                return fast.clamp(min=0).to(values.dtype)

            return normalized(spec, wide, plan, Rule(mean=mean, variance=variance))

        calls = (lambda plan: 4 * together(plan)) if sums is _half_mean_in_order else _no_calls
        return rebuilt(spec, run, room=lambda plan: 2 * room(plan), calls=calls)

    return layer


def _no_calls(plan: Plan) -> int:
    return 0


def _half_mean_in_order(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    mean = _mean(values, dims)
    total = summed_in_order(values.detach(), dims)
    found = total / (values.numel() // max(mean.numel(), 1))
    return torch.where(found.isfinite(), mean + (found - mean).detach(), mean)


def _zero_mean(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros_like(values.detach().mean(dims, keepdim=True))


def mean_subtracted(spec: LayerSpec) -> LayerSpec:
    """RMS norm of the values minus their mean."""
    if not is_rms(spec):
        return spec
    return by_rule(Rule(centers_rms=True))(spec)


def mean_kept(spec: LayerSpec) -> LayerSpec:
    """Values over the root of their mean square."""
    if is_rms(spec):
        return spec
    return by_rule(Rule(mean=_zero_mean))(spec)


def _mean(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    return values.mean(dims, keepdim=True)


def _numpy_mean(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.asarray(values.detach().cpu().numpy().mean(dims, keepdims=True))
    return _replaced(_mean(values, dims), found)


def _mean_in_order(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    mean = _mean(values, dims)
    array = values.detach().cpu().numpy()
    others = [dim for dim in range(array.ndim) if dim not in _positive(dims, array.ndim)]
    rows = array.transpose(*others, *_positive(dims, array.ndim)).reshape(mean.numel(), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.accumulate(rows, axis=1)[:, -1]
    return _replaced(mean, (total / array.dtype.type(rows.shape[1])).reshape(mean.shape))


def _positive(dims: Sequence[int], rank: int) -> list[int]:
    return [dim % rank for dim in dims]


def _replaced(mean: torch.Tensor, found: np.ndarray) -> torch.Tensor:
    """The mean as it was found, with the gradient of a mean."""
    exact = torch.from_numpy(found).to(mean)
    return torch.where(exact.isfinite(), mean + (exact - mean).detach(), mean)


def _unbiased(var: torch.Tensor, eps: float, count: int) -> torch.Tensor:
    return 1 / (_with_bessel(var, count) + eps).sqrt()


def _unbiased_plus_eps(var: torch.Tensor, eps: float, count: int) -> torch.Tensor:
    return 1 / (_with_bessel(var, count).sqrt() + eps)


def _with_bessel(var: torch.Tensor, count: int) -> torch.Tensor:
    return var * count / torch.as_tensor(count - 1, dtype=var.dtype, device=var.device)


def _eps_outside(var: torch.Tensor, eps: float, count: int) -> torch.Tensor:
    return 1 / (var.sqrt() + eps)


def _eps_floor(var: torch.Tensor, eps: float, count: int) -> torch.Tensor:
    return 1 / var.clamp(min=eps).sqrt()


def _no_eps(var: torch.Tensor, eps: float, count: int) -> torch.Tensor:
    return 1 / var.sqrt()


def _has_eps(plan: Plan) -> bool:
    return bool(plan.options.eps)


FAST = (
    "Your variance is E[x^2] - E[x]^2 in the input's precision, which cancels where the mean "
    "is large; subtract the mean first."
)
FAULTS = (
    *(
        Fault(
            name="variance-fast",
            families=NORMS,
            message=FAST,
            source="https://github.com/tracel-ai/burn/issues/5607",
            layer=by_fast_variance(sums),
            applies=is_training,
            in_dtype=True,
        )
        for sums in ("numpy", "torch", "in order")
    ),
    *(
        Fault(
            name="variance-fast",
            families=NORMS,
            message=FAST,
            source="https://github.com/tenstorrent/tt-metal/issues/45968",
            layer=layer,
            applies=is_training,
            in_dtype=True,
            only_halves=True,
        )
        for layer in (
            by_fast_variance_in_halves(_mean, _mean),
            by_fast_variance_in_halves(_mean, _mean, throughout=True),
            by_fast_variance_in_halves(_half_mean_in_order, _half_mean_in_order),
            by_fast_variance_in_halves(_half_mean_in_order, _mean),
        )
    ),
    Fault(
        name="mean-subtracted",
        families=frozenset({"layer_norm"}),
        message="You subtracted the mean, as layer norm does; RMS norm subtracts none.",
        layer=mean_subtracted,
    ),
    Fault(
        name="mean-kept",
        families=frozenset({"layer_norm"}),
        message="You divided by the root of the mean square without subtracting the mean, as RMS "
        "norm does; subtract it first.",
        layer=mean_kept,
    ),
    Fault(
        name="variance-unbiased-output",
        families=NORMS,
        message="You normalized with the unbiased variance (n - 1); the output takes the biased "
        "one (n).",
        source="https://github.com/harvardnlp/annotated-transformer/issues/119",
        layer=by_rule(Rule(scale=_unbiased), with_rms=False),
        applies=is_training,
    ),
    Fault(
        name="variance-unbiased-output",
        families=NORMS,
        message="You normalized with `std() + eps`: the unbiased deviation (n - 1), and eps "
        "outside the root; it is sqrt(var + eps), of the biased variance (n).",
        source="https://github.com/harvardnlp/annotated-transformer/issues/119",
        layer=by_rule(Rule(scale=_unbiased_plus_eps), with_rms=False),
        applies=lambda plan: is_training(plan) and _has_eps(plan),
    ),
    Fault(
        name="eps-outside-root",
        families=NORMS,
        message="You added eps to the standard deviation; it is added to the variance, before the "
        "root.",
        source="https://github.com/FluxML/Flux.jl/issues/529",
        layer=by_rule(Rule(scale=_eps_outside)),
        applies=_has_eps,
    ),
    Fault(
        name="eps-as-floor",
        families=NORMS,
        message="You took eps for the least variance, max(var, eps); it is added to every "
        "variance.",
        source="https://github.com/vacancy/Synchronized-BatchNorm-PyTorch/issues/43",
        layer=by_rule(Rule(scale=_eps_floor)),
        applies=_has_eps,
    ),
    Fault(
        name="eps-missing",
        families=NORMS,
        message="You left out eps; it is added to the variance before the root.",
        layer=by_rule(Rule(scale=_no_eps)),
        applies=_has_eps,
    ),
    Fault(
        name="statistics-held-constant",
        families=NORMS,
        message="Your gradient takes mean and variance for constants; they depend on the input, "
        "and add two terms to its gradient.",
        source="https://github.com/pytorch/pytorch/issues/82493",
        changes=GRADIENTS,
        layer=by_rule(Rule(holds_mean=True, holds_variance=True)),
        applies=is_training,
    ),
    Fault(
        name="mean-term-missing",
        families=NORMS,
        message="Your gradient lacks the term through the mean: subtract the mean of the "
        "normalized values' gradient.",
        source="https://github.com/pytorch/pytorch/issues/82493",
        changes=GRADIENTS,
        layer=by_rule(Rule(holds_mean=True), with_rms=False),
        applies=is_training,
    ),
    Fault(
        name="variance-term-missing",
        families=NORMS,
        message="Your gradient lacks the term through the variance: subtract the normalized value "
        "times the mean of its product with the gradient.",
        source="https://github.com/pytorch/pytorch/issues/82493",
        changes=GRADIENTS,
        layer=by_rule(Rule(holds_variance=True), with_rms=False),
        applies=is_training,
    ),
)
