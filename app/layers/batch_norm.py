"""Batch normalisation: each channel to mean 0 and variance 1, then scaled and shifted."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from app.errors import InvalidRequest
from app.layers._spec import SPATIAL, SPATIAL_NAMES, LayerSpec, Notes, Plan, Port, Tensors
from app.schemas.answers import Advice
from app.schemas.calls import Flag
from app.schemas.options import LayerOptions
from app.schemas.tensors import Shape, Shapes

SMALL_BATCH = 16
STATISTICS = ("mean", "var", "var_unbiased", "inv_std")
PARAMETERS = ("weight", "bias", "running_mean", "running_var")


class BatchNormOptions(LayerOptions):
    """Options of batch normalisation."""

    training: Flag
    """true: normalise with this batch's statistics and update the running ones; false: with the
    running ones. There is no default."""
    momentum: Annotated[float, Field(strict=True, ge=0, le=1)] | None = 0.1
    """Weight in the update of the running statistics; null: their cumulative average."""
    momentum_weights: Literal["batch", "running"] = "batch"
    """Which side `momentum` weighs: the batch's statistics, or the running ones."""
    running_var_estimator: Literal["unbiased", "biased"] = "unbiased"
    """Whether the running variance is updated with the sum of squares over n - 1, or over n."""
    eps: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 1e-5
    """Added to the variance under the root; above 0 in training."""
    num_batches_tracked: Annotated[int, Field(strict=True, ge=0, lt=2**53)] = 0
    """How many batches the running statistics have seen."""


def plan(shapes: Shapes, options: BatchNormOptions) -> Plan:
    """Checks, and cost: a few operations an element."""
    shape = shapes["input"]
    channels = shape[1]
    if channels == 0:
        detail = f"input: expected at least one channel; got the shape {list(shape)}"
        raise InvalidRequest.at("input", "empty-axis", detail)
    for name in PARAMETERS:
        if shapes.get(name, (channels,)) != (channels,):
            detail = (
                f"{name}: expected shape [{channels}], one value a channel of the input; "
                f"got {list(shapes[name])}"
            )
            raise InvalidRequest.at(name, "shape-mismatch", detail)
    _check_statistics(shapes, options, shape)
    per_channel = {f"batch_stats.{name}": (channels,) for name in STATISTICS}
    running: dict[str, Shape] = {
        "running_stats.mean": (channels,),
        "running_stats.var": (channels,),
        "running_stats.num_batches_tracked": (),
    }
    return Plan(
        options=options,
        inputs={"input": shape, **dict.fromkeys(PARAMETERS, (channels,))},
        outputs={"output": shape, **({**running, **per_channel} if options.training else {})},
        cost=4 * math.prod(shape),
    )


def _check_statistics(shapes: Shapes, options: BatchNormOptions, shape: Shape) -> None:
    given = [name for name in ("running_mean", "running_var") if name in shapes]
    if len(given) == 1:
        missing = "running_var" if given == ["running_mean"] else "running_mean"
        detail = f"{missing}: {given[0]} came without it; send both or neither"
        raise InvalidRequest.at(missing, "missing", detail)
    if not options.training:
        if not given:
            detail = (
                "running_mean: `training: false` normalises with running_mean and running_var; "
                "send both, or `training: true`"
            )
            raise InvalidRequest.at("running_mean", "missing", detail)
        return
    if options.eps == 0:
        detail = "eps: expected more than 0 in training; got 0"
        raise InvalidRequest.at("eps", "out-of-range", detail)
    if shape[0] * math.prod(shape[2:]) == 1:
        detail = (
            f"input: expected more than one value a channel in training; got the shape "
            f"{list(shape)}, whose variance is 0. Send a larger batch, or `training: false`"
        )
        raise InvalidRequest.at("input", "one-value-per-channel", detail)


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *spatial)`; in training also the statistics, as new values."""
    x, weight, bias = tensors["input"], tensors["weight"], tensors["bias"]
    mean, var = tensors["running_mean"], tensors["running_var"]
    options: BatchNormOptions = plan.options
    if not options.training:
        if bool((var < 0).any()):
            detail = "running_var: expected no negative variance; got one"
            raise InvalidRequest.at("running_var", "out-of-range", detail)
        return {"output": F.batch_norm(x, mean, var, weight, bias, False, 0.0, options.eps)}
    # With momentum 1 torch replaces what it is given by the batch's mean and unbiased variance.
    batch_mean, unbiased = torch.zeros_like(mean), torch.zeros_like(var)
    output = F.batch_norm(x, batch_mean, unbiased, weight, bias, True, 1.0, options.eps)
    count = x.numel() // x.shape[1]
    if count == 0:
        batch_mean, unbiased = torch.full_like(mean, math.nan), torch.full_like(var, math.nan)
    biased = unbiased * ((count - 1) / count) if count else unbiased
    return {
        "output": output,
        **_updated(tensors, options, batch_mean, unbiased, biased, count),
        "batch_stats.mean": batch_mean,
        "batch_stats.var": biased,
        "batch_stats.var_unbiased": unbiased,
        "batch_stats.inv_std": (biased + options.eps).rsqrt(),
    }


def _updated(
    tensors: Tensors,
    options: BatchNormOptions,
    batch_mean: torch.Tensor,
    unbiased: torch.Tensor,
    biased: torch.Tensor,
    count: int,
) -> Tensors:
    """The running statistics after this batch; an empty batch only counts."""
    tracked = options.num_batches_tracked + 1
    share = 1 / tracked if options.momentum is None else options.momentum
    if options.momentum is not None and options.momentum_weights == "running":
        share = 1 - share
    mean, var = tensors["running_mean"], tensors["running_var"]
    if count:
        batch_var = unbiased if options.running_var_estimator == "unbiased" else biased
        mean = (mean * (1 - share)).add_(batch_mean, alpha=share)
        var = (var * (1 - share)).add_(batch_var, alpha=share)
    return {
        "running_stats.mean": mean,
        "running_stats.var": var,
        "running_stats.num_batches_tracked": torch.tensor(tracked),
    }


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Advice on the batch and the options."""
    x, options = tensors["input"], plan.options
    count = x.numel() // x.shape[1]
    if not count:
        return Notes()
    axes = (0, *range(2, x.dim()))
    var, mean = torch.var_mean(x, axes, correction=0)
    advice = []
    if options.training and count < SMALL_BATCH:
        advice.append(
            Advice(
                code="small-batch",
                message=f"The statistics rest on {count} values a channel.",
                suggestion="Use a larger batch, statistics joined over replicas, or group norm.",
            )
        )
    if bool((var == 0).any()):
        advice.append(
            Advice(
                code="constant-channel",
                message="A channel is constant: its variance is 0.",
                suggestion="Its output is the bias; its input gradient is scaled by 1/sqrt(eps).",
            )
        )
    if not options.training:
        running_mean, running_var = tensors["running_mean"], tensors["running_var"]
        spread = (running_var.clamp(min=0) + options.eps).sqrt()
        ratio = (var + options.eps) / (running_var.clamp(min=0) + options.eps)
        far = ((mean - running_mean).abs() > spread) | (ratio > 4) | (ratio < 0.25)
        if bool(far.any()):
            advice.append(
                Advice(
                    code="train-eval-mismatch",
                    message="The running statistics are far from this batch's own.",
                    suggestion="Train longer, or check momentum and preprocessing.",
                )
            )
    elif (options.momentum or 0) >= 0.5 and options.momentum_weights == "batch":
        advice.append(
            Advice(
                code="momentum-convention",
                message=f"Momentum {options.momentum} lets this batch outweigh all before it.",
                suggestion="Keras's 0.99 is torch's 0.01: send `1 - momentum`, or "
                '`momentum_weights: "running"`.',
            )
        )
    return Notes(advice=tuple(advice))


def _ports(dims: int) -> tuple[Port, ...]:
    spatial = f"(N, C, {SPATIAL_NAMES[dims]})"
    axes, ranks = (f"(N, C) or {spatial}", (2, 3)) if dims == 1 else (spatial, (dims + 2,))
    return (
        Port("input", axes, ranks, mapped=True, differentiable=True),
        Port("weight", "(C)", (1,), required=False, differentiable=True, fill=1.0),
        Port("bias", "(C)", (1,), required=False, differentiable=True, fill=0.0),
        Port("running_mean", "(C)", (1,), required=False, fill=0.0),
        Port("running_var", "(C)", (1,), required=False, fill=1.0),
    )


def _outputs(dims: int) -> tuple[Port, ...]:
    first = _ports(dims)[0]
    return (
        Port("output", first.axes, first.ranks, mapped=True),
        Port("running_stats.mean", "(C)", (1,), required=False),
        Port("running_stats.var", "(C)", (1,), required=False),
        Port("running_stats.num_batches_tracked", "()", (0,), required=False),
        *(Port(f"batch_stats.{name}", "(C)", (1,), required=False) for name in STATISTICS),
    )


def _example(dims: int) -> dict[str, object]:
    channel: object = [1, 2, 4, 5]
    for _ in range(dims - 1):
        channel = [channel]
    return {"input": [[channel, channel]], "training": True}


SPECS = tuple(
    LayerSpec(
        name=f"batch_norm{dims}d",
        family="batch_norm",
        summary=f"Each channel to mean 0 and variance 1 over the batch and {SPATIAL[dims]}",
        options=BatchNormOptions,
        inputs=_ports(dims),
        outputs=_outputs(dims),
        plan=plan,
        run=run,
        explain=explain,
        example=_example(dims),
    )
    for dims in (1, 2, 3)
)
