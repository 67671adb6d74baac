"""Faults of batch, instance and group norm: running statistics, and what is normalized together."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._gradients import scaled, with_gradients
from app.faults._norm import (
    BATCH,
    Groups,
    by_channel,
    centered_variance,
    groups,
    inputs,
    inverse_root,
    is_training,
    room,
    running,
    statistics,
    with_running,
)
from app.layers import LayerSpec, Plan, Tensors
from app.layers._batch_statistics import STATISTICS, updated

RUNNING = ("mean", "var")


def inverse_std_as_variance(spec: LayerSpec) -> LayerSpec:
    """1 / sqrt(inv_std + eps) stands for inv_std in the gradients of input and weight. With running
    statistics, the gradient has no terms through them.
    """

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        own = groups(spec, tensors, plan)
        values, dims, eps = own.values, own.dims, plan.options.eps
        if not values.numel():
            return spec.run(tensors, plan)
        training = is_training(plan)
        if training:
            mean = values.detach().mean(dims, keepdim=True)
            var = centered_variance(values.detach(), mean, dims)
        else:
            mean, var = running(values, dims, tensors)
        scale = inverse_root(var, eps, own.count)
        wrong = inverse_root(scale, eps, own.count)
        right = (values.detach() - mean) * scale
        moved = (values.detach() - mean) * wrong

        def rule(grad: torch.Tensor) -> tuple[torch.Tensor]:
            if not training:
                return (grad * wrong,)
            along = (grad * moved).mean(dims, keepdim=True)
            return ((grad - grad.mean(dims, keepdim=True) - moved * along) * wrong,)

        # The weight's gradient is taken from what it multiplies, which is `moved`; the output is
        # that of `right`.
        outputs = own.finish(with_gradients(moved, (values,), rule))
        with torch.no_grad():
            shown = own.finish(right)
        outputs = {name: _shown(shown[name], output) for name, output in outputs.items()}
        return {**outputs, **statistics(spec, tensors, plan, mean, var, scale, own.count)}

    return rebuilt(spec, run, room=room)


def _shown(value: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """`value`, with the gradient of `output`."""
    return with_gradients(value, (output,), lambda grad: (grad,))


def running_std(spec: LayerSpec) -> LayerSpec:
    """The running variance is updated with the root of the estimate."""
    return _updated_with(spec, lambda own, eps, count: own.sqrt())


def running_std_of_flux(spec: LayerSpec) -> LayerSpec:
    """The running variance is updated with sqrt(var + eps) * n / (n - 1), var being biased."""

    def estimate(own: torch.Tensor, eps: float, count: int) -> torch.Tensor:
        return (own + eps).sqrt() * (count / (count - 1) if count > 1 else math.inf)

    return _updated_with(spec, estimate, biased=True)


def running_inverse_std(spec: LayerSpec) -> LayerSpec:
    """The running variance is updated with 1 / sqrt(var + eps), of the biased variance."""
    return _updated_with(spec, inverse_root, biased=True)


def _updated_with(
    spec: LayerSpec,
    estimate: Callable[[torch.Tensor, float, int], torch.Tensor],
    *,
    biased: bool = False,
) -> LayerSpec:
    """The running variance is updated with `estimate(var, eps, count)`, of the variance that was
    asked for, or of the `biased` one.
    """

    def change(found: Tensors, tensors: Tensors, plan: Plan) -> Tensors:
        batch = {name: found[f"batch_stats.{name}"] for name in STATISTICS}
        count = sum(x.numel() // x.shape[1] for x in inputs(tensors))
        kept = {
            name: estimate(batch["var" if biased else name], plan.options.eps, count)
            for name in ("var", "var_unbiased")
        }
        return updated(tensors, plan.options, {**batch, **kept}, 1)

    return _with_statistics(spec, change)


def not_updated(spec: LayerSpec) -> LayerSpec:
    """The running statistics, and the number of batches, as they came."""

    def change(found: Tensors, tensors: Tensors, plan: Plan) -> Tensors:
        old = {f"running_stats.{name}": tensors[f"running_{name}"] for name in RUNNING}
        tracked = torch.tensor(plan.options.num_batches_tracked)
        return {**old, "running_stats.num_batches_tracked": tracked}

    return _with_statistics(spec, change)


def updated_twice(spec: LayerSpec) -> LayerSpec:
    """The running statistics after the same batch came twice."""

    def change(found: Tensors, tensors: Tensors, plan: Plan) -> Tensors:
        batch = {name: found[f"batch_stats.{name}"] for name in STATISTICS}
        once = {f"running_{name}": found[f"running_stats.{name}"] for name in RUNNING}
        tracked = {"num_batches_tracked": plan.options.num_batches_tracked + 1}
        return updated(once, plan.options.model_copy(update=tracked), batch, 1)

    return _with_statistics(spec, change)


def _with_statistics(
    spec: LayerSpec, change: Callable[[Tensors, Tensors, Plan], Tensors]
) -> LayerSpec:
    def run(tensors: Tensors, plan: Plan) -> Tensors:
        found = spec.run(tensors, plan)
        if not is_training(plan) or not all(map(torch.Tensor.numel, inputs(tensors))):
            return found
        return {**found, **change(found, tensors, plan)}

    return replace(spec, run=run)


def per_sample(spec: LayerSpec) -> LayerSpec:
    """Each sample and channel by itself; the statistics kept are the means over the samples'."""

    def grouped(x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2), (2,)

    return _grouped_by(spec, grouped)


def all_channels(spec: LayerSpec) -> LayerSpec:
    """Each sample by itself, over all of its channels."""
    if spec.name == "group_norm":
        return spec

    def grouped(x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2), (1, 2)

    return _grouped_by(spec, grouped)


def _grouped_by(
    spec: LayerSpec, grouped: Callable[[torch.Tensor], tuple[torch.Tensor, tuple[int, ...]]]
) -> LayerSpec:
    def run(tensors: Tensors, plan: Plan) -> Tensors:
        (x,) = inputs(tensors)
        if not x.numel() or not is_training(plan):
            return spec.run(tensors, plan)
        values, dims = grouped(x)
        count = math.prod(values.shape[dim] for dim in dims)
        mean = values.mean(dims, keepdim=True)
        var = centered_variance(values, mean, dims)
        scale = inverse_root(var, plan.options.eps, count)
        weight, bias = (by_channel(tensors[name], values) for name in ("weight", "bias"))
        output = ((values - mean) * scale * weight + bias).view(x.shape)
        found = (one.detach().expand(*x.shape[:2], 1).squeeze(2) for one in (mean, var, scale))
        mean, var, scale = found
        if spec.family == "group_norm":
            return {"output": output, "statistics.mean": mean, "statistics.inv_std": scale}
        unbiased = var * (count / (count - 1)) if count > 1 else torch.full_like(var, math.nan)
        kept = (one.mean(0) for one in (mean, var, unbiased, scale))
        batch = dict(zip(STATISTICS, kept, strict=True))
        return {"output": output, **with_running(tensors, plan, batch, count)}

    # Groups of few values have statistics as many as elements.
    return rebuilt(spec, run, room=lambda plan: 2 * room(plan))


def groups_interleaved(spec: LayerSpec) -> LayerSpec:
    """Channel c in group c % groups."""
    if spec.name == "instance_norm":
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        (x,) = inputs(tensors)
        count = plan.outputs["statistics.mean"][1]
        order = torch.arange(x.shape[1], device=x.device).view(-1, count).t().flatten()
        turned = {"input": x[:, order], **{n: tensors[n][order] for n in ("weight", "bias")}}
        found = spec.run(turned, plan)
        return {**found, "output": found["output"][:, order.argsort()]}

    return rebuilt(spec, run, room=room)


def not_synchronized(spec: LayerSpec) -> LayerSpec:
    """Each replica by itself; the statistics kept are the first one's."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        images = inputs(tensors)
        if not all(map(torch.Tensor.numel, images)):
            return spec.run(tensors, plan)
        kept: dict[str, torch.Tensor] = {}
        outputs = {}
        for index, x in enumerate(images):
            dims = (0, *range(2, x.dim()))
            own = Groups(x, dims, dict)
            mean = x.mean(dims, keepdim=True)
            var = centered_variance(x, mean, dims)
            scale = inverse_root(var, plan.options.eps, own.count)
            weight, bias = (by_channel(tensors[name], x) for name in ("weight", "bias"))
            outputs[f"outputs.{index}"] = (x - mean) * scale * weight + bias
            kept = kept or statistics(spec, tensors, plan, mean, var, scale, own.count)
        return {**outputs, **kept}

    return rebuilt(spec, run, room=room)


def unweighted(spec: LayerSpec) -> LayerSpec:
    """Means over the replicas of their means of x and x^2, whatever their sizes."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        own = groups(spec, tensors, plan)
        images = inputs(tensors)
        if not all(map(torch.Tensor.numel, images)):
            return spec.run(tensors, plan)
        parts = own.values.split([x.numel() // x.shape[1] for x in images], 1)
        means = torch.stack([part.mean(1, keepdim=True) for part in parts])
        mean = means.mean(0)
        squares = torch.stack([(part - mean).square().mean(1, keepdim=True) for part in parts])
        var = squares.mean(0)
        scale = inverse_root(var, plan.options.eps, own.count)
        outputs = own.finish((own.values - mean) * scale)
        return {**outputs, **statistics(spec, tensors, plan, mean, var, scale, own.count)}

    return rebuilt(spec, run, room=room)


def gradients_averaged(spec: LayerSpec) -> LayerSpec:
    """The gradients of weight and bias divided by the number of replicas."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        share = 1 / len(inputs(tensors))
        averaged = {name: scaled(tensors[name], share) for name in ("weight", "bias")}
        return spec.run({**tensors, **averaged}, plan)

    return replace(spec, run=run)


SYNC = frozenset({"sync_batch_norm"})
FAULTS = (
    Fault(
        name="inverse-std-as-variance",
        families=BATCH,
        message="Your gradient takes the saved 1 / sqrt(var + eps) for a variance, and takes its "
        "inverse root again; use it as it is.",
        source="https://github.com/flagos-ai/FlagGems/issues/5222",
        changes=GRADIENTS,
        layer=inverse_std_as_variance,
    ),
    Fault(
        name="running-std",
        families=BATCH,
        message="You updated the running variance with the standard deviation; update it with the "
        "variance.",
        source="https://github.com/FluxML/Flux.jl/issues/314",
        changes=frozenset({"running_stats"}),
        layer=running_std,
        applies=is_training,
    ),
    Fault(
        name="running-std",
        families=BATCH,
        message="You updated the running variance with sqrt(var + eps) * n / (n - 1); update it "
        "with the variance, without eps.",
        source="https://github.com/FluxML/Flux.jl/issues/314",
        changes=frozenset({"running_stats"}),
        layer=running_std_of_flux,
        applies=is_training,
    ),
    Fault(
        name="running-inverse-std",
        families=BATCH,
        message="You updated the running variance with 1 / sqrt(var + eps); update it with the "
        "variance.",
        source="https://github.com/torch/nn/issues/609",
        changes=frozenset({"running_stats"}),
        layer=running_inverse_std,
        applies=is_training,
    ),
    Fault(
        name="running-not-updated",
        families=BATCH,
        message="You returned the running statistics as they came; training updates them.",
        changes=frozenset({"running_stats"}),
        layer=not_updated,
        applies=is_training,
    ),
    Fault(
        name="running-updated-twice",
        families=BATCH,
        message="You updated the running statistics twice with this batch; update them once.",
        changes=frozenset({"running_stats"}),
        layer=updated_twice,
        applies=is_training,
    ),
    Fault(
        name="statistics-per-sample",
        families=frozenset({"batch_norm"}),
        message="You normalized each sample by itself, as instance norm does; batch norm takes "
        "its statistics over the whole batch.",
        layer=per_sample,
        applies=is_training,
    ),
    Fault(
        name="statistics-of-all-channels",
        families=frozenset({"batch_norm", "group_norm"}),
        message="You normalized each sample over all channels, as layer norm does; each channel "
        "has its own statistics.",
        layer=all_channels,
        applies=is_training,
    ),
    Fault(
        name="groups-interleaved",
        families=frozenset({"group_norm"}),
        message="You put channel c in group c % groups; groups are of adjacent channels, "
        "c // (channels / groups).",
        layer=groups_interleaved,
    ),
    Fault(
        name="replicas-not-synchronized",
        families=SYNC,
        message="Each replica normalized with the statistics of its own batch; they are those of "
        "all replicas' batches together.",
        layer=not_synchronized,
        applies=is_training,
    ),
    Fault(
        name="replicas-unweighted",
        families=SYNC,
        message="You averaged the replicas' statistics; weight each by its number of values.",
        source="https://github.com/PaddlePaddle/Paddle/issues/32464",
        layer=unweighted,
        applies=is_training,
    ),
    Fault(
        name="replica-gradients-averaged",
        families=SYNC,
        message="Your gradients of weight and bias are averages over the replicas, as "
        "DistributedDataParallel makes them; they are sums.",
        source="https://github.com/pytorch/pytorch/issues/57796",
        changes=GRADIENTS,
        layer=gradients_averaged,
        applies=lambda plan: "inputs.1" in plan.inputs,
    ),
)
