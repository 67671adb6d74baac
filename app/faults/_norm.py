"""Shared by the faults of norms: what each norm reduces, and normalization by other rules."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from app.layers import LayerSpec, Plan, Tensors
from app.layers._batch_statistics import STATISTICS, updated

BATCH = frozenset({"batch_norm", "sync_batch_norm"})
NORMS = BATCH | {"group_norm", "layer_norm"}
ROOM = 4
"""Elements of working memory per element of the input."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The input of a norm: `values` are normalized together over the axes `dims`.

    `finish(normalized)` multiplies, adds and arranges them as the layer's outputs.
    """

    values: torch.Tensor
    dims: tuple[int, ...]
    finish: Callable[[torch.Tensor], dict[str, torch.Tensor]]

    @property
    def count(self) -> int:
        """Number of values that are normalized together."""
        return math.prod(self.values.shape[dim] for dim in self.dims)


def inverse_root(var: torch.Tensor, eps: float, count: int) -> torch.Tensor:
    """1 / sqrt(var + eps)."""
    return 1 / (var + eps).sqrt()


def centered_variance(
    values: torch.Tensor, mean: torch.Tensor, dims: tuple[int, ...]
) -> torch.Tensor:
    """The biased variance, or around a mean of 0 the mean square."""
    return (values - mean).square().mean(dims, keepdim=True)


def plain_mean(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """The mean."""
    return values.mean(dims, keepdim=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a client normalizes: its mean, variance, and scale, which of the two statistics its
    gradient takes for constants, and whether it subtracts a mean even in RMS norm.
    """

    mean: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor] = plain_mean
    variance: Callable[[torch.Tensor, torch.Tensor, tuple[int, ...]], torch.Tensor] = (
        centered_variance
    )
    scale: Callable[[torch.Tensor, float, int], torch.Tensor] = inverse_root
    holds_mean: bool = False
    holds_variance: bool = False
    centers_rms: bool = False


def is_training(plan: Plan) -> bool:
    """Whether the statistics are those of the input."""
    return bool(getattr(plan.options, "training", True))


def is_rms(spec: LayerSpec) -> bool:
    """Whether the norm subtracts no mean."""
    return spec.name == "rms_norm"


def room(plan: Plan) -> int:
    """Working memory for the terms of normalization, which autograd keeps."""
    return ROOM * sum(map(math.prod, plan.inputs.values()))


def summed_in_order(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Sums over `dims`, one term after the other, row-major; these axes remain with length 1."""
    if not dims:
        return values
    rank = values.dim()
    reduced = sorted(dim % rank for dim in dims)
    others = [dim for dim in range(rank) if dim not in reduced]
    shape = [1 if dim in reduced else size for dim, size in enumerate(values.shape)]
    terms = values.permute(*others, *reduced).flatten(len(others)) if others else values.flatten()
    total, *rest = terms.unbind(-1)
    for term in rest:
        total = total + term
    return total.view(shape)


def together(plan: Plan) -> int:
    """Number of values that are normalized together."""
    names = ("statistics.mean", "statistics.inv_rms")
    statistics = [plan.outputs[name] for name in names if name in plan.outputs]
    images = [shape for name, shape in plan.inputs.items() if name.startswith("input")]
    each = math.prod(statistics[0] if statistics else plan.inputs["weight"])
    return sum(map(math.prod, images)) // max(each, 1)


def inputs(tensors: Tensors) -> list[torch.Tensor]:
    """The images: one, or one per replica."""
    names = [name for name in tensors if name == "input" or name.startswith("inputs.")]
    return [tensors[name].contiguous() for name in names]


def by_channel(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """View `(C)` so that it broadcasts over `(N, C, *spatial)`."""
    return vector.view(-1, *[1] * (x.dim() - 2))


def groups(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Groups:
    """What the layer normalizes together."""
    if spec.family == "sync_batch_norm":
        return _replicas(tensors)
    (x,) = inputs(tensors)
    if spec.family == "layer_norm":
        return _trailing(spec, x, tensors, plan)

    def scaled(normalized: torch.Tensor) -> dict[str, torch.Tensor]:
        weight, bias = (by_channel(tensors[name], x) for name in ("weight", "bias"))
        return {"output": normalized.view(x.shape) * weight + bias}

    if spec.family == "group_norm":
        samples, count = plan.outputs["statistics.mean"]
        values = x.reshape(samples, count, math.prod(x.shape[1:]) // count)
        return Groups(values, (2,), scaled)
    return Groups(x, (0, *range(2, x.dim())), scaled)


def _replicas(tensors: Tensors) -> Groups:
    images = inputs(tensors)
    rows = [x.transpose(0, 1).flatten(1) for x in images]

    def split(normalized: torch.Tensor) -> dict[str, torch.Tensor]:
        output = normalized * tensors["weight"][:, None] + tensors["bias"][:, None]
        parts = output.split([row.shape[1] for row in rows], 1)
        return {
            f"outputs.{index}": part.view(x.transpose(0, 1).shape).transpose(0, 1)
            for index, (part, x) in enumerate(zip(parts, images, strict=True))
        }

    return Groups(torch.cat(rows, 1), (1,), split)


def _trailing(spec: LayerSpec, x: torch.Tensor, tensors: Tensors, plan: Plan) -> Groups:
    def scaled(normalized: torch.Tensor) -> dict[str, torch.Tensor]:
        weight = tensors["weight"] + getattr(plan.options, "weight_offset", 0)
        output = normalized * weight
        return {"output": output if is_rms(spec) else output + tensors["bias"]}

    rank = len(plan.options.normalized_shape)
    return Groups(x, tuple(range(x.dim() - rank, x.dim())), scaled)


def running(
    values: torch.Tensor, dims: tuple[int, ...], tensors: Tensors
) -> tuple[torch.Tensor, torch.Tensor]:
    """The running mean and variance, viewed to broadcast over the values."""
    shape = [1 if dim in dims else size for dim, size in enumerate(values.shape)]
    mean, var = (tensors[name].view(shape) for name in ("running_mean", "running_var"))
    return mean, var


def normalized(spec: LayerSpec, tensors: Tensors, plan: Plan, rule: Rule) -> Tensors:
    """The layer's answer by another rule."""
    own = groups(spec, tensors, plan)
    if not own.values.numel():
        return spec.run(tensors, plan)
    values, dims, eps = own.values, own.dims, plan.options.eps
    if is_rms(spec) and not rule.centers_rms:
        mean = torch.zeros_like(values[:1].flatten()[:1]).detach()
        var = rule.variance(values, mean, dims)
    elif is_training(plan):
        mean = rule.mean(values, dims)
        var = rule.variance(values, mean, dims)
    else:
        mean, var = running(values, dims, tensors)
    scale = rule.scale(var, eps, own.count)
    moved = values - (mean.detach() if rule.holds_mean else mean)
    outputs = own.finish(moved * (scale.detach() if rule.holds_variance else scale))
    return {**outputs, **statistics(spec, tensors, plan, mean, var, scale, own.count)}


def statistics(
    spec: LayerSpec,
    tensors: Tensors,
    plan: Plan,
    mean: torch.Tensor,
    var: torch.Tensor,
    scale: torch.Tensor,
    count: int,
) -> dict[str, torch.Tensor]:
    """The statistics in the layer's answer, from those of the client."""
    mean, var, scale = mean.detach(), var.detach(), scale.detach()
    if spec.family not in BATCH:
        shapes = {name: shape for name, shape in plan.outputs.items() if name != "output"}
        found = {"mean": mean, "inv_std": scale, "inv_rms": scale}
        return {name: found[name.removeprefix("statistics.")].view(shapes[name]) for name in shapes}
    if not is_training(plan):
        return {}
    unbiased = var * (count / (count - 1)) if count > 1 else torch.full_like(var, math.nan)
    flat = (one.flatten() for one in (mean, var, unbiased, scale))
    return with_running(tensors, plan, dict(zip(STATISTICS, flat, strict=True)), count)


def with_running(
    tensors: Tensors, plan: Plan, batch: Mapping[str, torch.Tensor], count: int
) -> dict[str, torch.Tensor]:
    """The statistics of a batch, and the running ones after it."""
    return {
        **updated(tensors, plan.options, batch, count),
        **{f"batch_stats.{name}": value for name, value in batch.items()},
    }
