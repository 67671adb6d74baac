"""Shared by the batch norms: options, checks, batch statistics, and running statistics."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from app.errors import InvalidRequest
from app.layers._cases import Body
from app.layers._precision import LONGEST_SUM, WIDENED_COPIES, is_well_scaled, mean_of
from app.layers._spec import Plan, Port, Tensors, presets
from app.layers._terms import Sums, Terms, by_channel, normalized
from app.schemas.options import Epsilon, Flag, LayerOptions
from app.schemas.tensors import Shape, Shapes

FEW_SAMPLES = 8
"""So few values can be added one by one in float32."""
SHORTEST_PIECE = 64
"""With pieces of a plane shorter than this, float64 is faster."""
STATISTICS = ("mean", "var", "var_unbiased", "inv_std")
PARAMETERS = ("weight", "bias", "running_mean", "running_var")
_OTHERS = {"momentum_weights": "running", "running_var_estimator": "biased"}
PRESETS = presets(
    keras={**_OTHERS, "momentum": 0.99, "eps": 1e-3},
    onnx={**_OTHERS, "momentum": 0.9},
    flax={**_OTHERS, "momentum": 0.99},
)
FORMULA = (
    "y = weight * (x - mean) / sqrt(var + eps) + bias, with mean and biased variance per channel. "
    "In training they are those of the batch, and running = (1 - momentum) * running + momentum * "
    "batch (`momentum_weights: running` swaps the weights); otherwise they are the running ones."
)
DIFFERENCES = (
    "torch updates the running variance with the unbiased variance, the others with the biased.",
    "torch's momentum of 0.1 weights the batch; 0.9 or 0.99 in Keras, ONNX and Flax weights the "
    "running statistics.",
    "With one value per channel, torch refuses to train; the others get a variance of 0.",
    "Flax computes the variance as E[x^2] - E[x]^2, which loses digits; here it is centered.",
)


class BatchNormOptions(LayerOptions):
    """Options of batch normalization."""

    training: Flag
    """true: normalize with the statistics of the batch, and update the running statistics; false:
    normalize with the running statistics. There is no default."""
    momentum: Annotated[float, Field(strict=True, ge=0, le=1)] | None = 0.1
    """Weight in the update of the running statistics; null: use a cumulative average."""
    momentum_weights: Literal["batch", "running"] = "batch"
    """Which statistics `momentum` is the weight of: those of the batch, or the running ones."""
    running_var_estimator: Literal["unbiased", "biased"] = "unbiased"
    """Whether the running variance is updated with the unbiased (n - 1) or biased (n) variance."""
    eps: Epsilon = 1e-5
    """Added to the variance before the square root; in torch it must be above 0 in training."""
    num_batches_tracked: Annotated[int, Field(strict=True, ge=0, lt=2**53)] = 0
    """Number of batches in the running statistics so far."""


_STATE = {"running_mean": [0.5, -1], "running_var": [2, 0.5]}
_SCALED = {"weight": [1.5, -2], "bias": [0.25, 1]}
CHOICES: tuple[Body, ...] = (
    {**_STATE, **_SCALED, "momentum": 0.3, "num_batches_tracked": 4},
    {**_STATE, **_SCALED, "training": False, "eps": 0.5},
    {**_STATE, "momentum": None, "num_batches_tracked": 3, "explain": True},
    {**_STATE, "momentum_weights": "running", "running_var_estimator": "biased"},
    {**_STATE, "momentum_weights": "batch", "running_var_estimator": "unbiased"},
)
"""Options that cover those of a batch norm in training, for two channels."""
PARAMETER_PORTS = (
    Port("weight", "(C)", (1,), required=False, differentiable=True, fill=1.0),
    Port("bias", "(C)", (1,), required=False, differentiable=True, fill=0.0),
    Port("running_mean", "(C)", (1,), required=False, fill=0.0),
    Port("running_var", "(C)", (1,), required=False, fill=1.0),
)
STATISTICS_PORTS = (
    Port("running_stats.mean", "(C)", (1,), required=False),
    Port("running_stats.var", "(C)", (1,), required=False),
    Port("running_stats.num_batches_tracked", "()", (0,), required=False),
    *(Port(f"batch_stats.{name}", "(C)", (1,), required=False) for name in STATISTICS),
)


def statistics_shapes(channels: int) -> dict[str, Shape]:
    """Shapes of the statistics returned in training, by name."""
    return {port.name: (channels,) * port.ranks[0] for port in STATISTICS_PORTS}


def parameter_shapes(shape: Shape, call: object) -> Shapes:
    """Shapes of the per-channel vectors for an input."""
    return dict.fromkeys(PARAMETERS, shape[1:2])


def check_parameters(
    shapes: Shapes, options: BatchNormOptions, channels: int, count: int, *, image: str = "input"
) -> None:
    """Check the vectors' shapes, that running statistics are present if needed, and `count`.

    `count` is the number of values per channel; `image` is the name of the input field.
    """
    if channels == 0:
        detail = f"{image}: expected at least one channel; got none"
        raise InvalidRequest.at(image, "empty-axis", detail)
    for name in PARAMETERS:
        if shapes.get(name, (channels,)) != (channels,):
            detail = (
                f"{name}: expected shape [{channels}], one value per channel of the input; "
                f"got {list(shapes[name])}"
            )
            raise InvalidRequest.at(name, "shape-mismatch", detail)
    given = [name for name in ("running_mean", "running_var") if name in shapes]
    if len(given) == 1:
        missing = "running_var" if given == ["running_mean"] else "running_mean"
        detail = f"{missing}: missing; send it together with {given[0]}, or send neither"
        raise InvalidRequest.at(missing, "missing", detail)
    if options.training:
        _check_training(options, count, image)
    elif not given:
        detail = (
            "running_mean: missing; `training: false` needs running_mean and running_var. "
            "Send both, or `training: true`"
        )
        raise InvalidRequest.at("running_mean", "missing", detail)


def _check_training(options: BatchNormOptions, count: int, image: str) -> None:
    if options.convention == "torch" and options.eps == 0:
        detail = "eps: must be greater than 0 in training; got 0"
        raise InvalidRequest.at("eps", "out-of-range", detail)
    if count != 1:
        return
    if options.convention == "torch":
        detail = (
            f"{image}: expected more than one value per channel in training; got one, whose "
            "variance is 0. Send a larger batch, or `training: false`"
        )
        raise InvalidRequest.at(image, "one-value-per-channel", detail)
    if options.running_var_estimator == "unbiased":
        detail = (
            "running_var_estimator: a single value per channel has no unbiased variance; "
            'send "biased", or a larger batch'
        )
        raise InvalidRequest.at("running_var_estimator", "one-value-per-channel", detail)


def check_running(tensors: Tensors) -> None:
    """Refuse a running variance below 0."""
    if tensors["running_var"].min().item() < 0:
        detail = "running_var: variances must not be negative"
        raise InvalidRequest.at("running_var", "out-of-range", detail)


def with_running(tensors: Tensors, x: torch.Tensor, eps: float) -> torch.Tensor:
    """`(N, C, *spatial) -> (N, C, *spatial)`, normalized with the running statistics."""
    return _unfolded(_with_running(tensors, _folded(x), eps), x)


def _with_running(tensors: Tensors, x: torch.Tensor, eps: float) -> torch.Tensor:
    mean, var = tensors["running_mean"], tensors["running_var"]
    if _piece(x) and is_well_scaled(mean, var, eps):
        return _batch_norm(x, mean, var, tensors, eps, training=False)
    scale = tensors["weight"] * (var.double() + eps).rsqrt()
    centered = x.double() - _by_channel(mean, x)
    return torch.addcmul(_by_channel(tensors["bias"], x), centered, _by_channel(scale, x))


def with_batch(
    tensors: Tensors, x: torch.Tensor, eps: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`(N, C, *spatial) -> (N, C, *spatial)`, normalized with the batch statistics, and these."""
    weight, bias = tensors["weight"], tensors["bias"]
    count = x.numel() // x.shape[1]
    if count == 0:
        mean = biased = unbiased = torch.full_like(weight.detach(), math.nan)
        output = F.batch_norm(x, mean, unbiased, weight, bias, False, 0.0, eps)
    elif count == 1 or eps == 0:  # torch refuses both
        output, mean, biased = _normalized_by_hand(tensors, x, eps)
        unbiased = biased * (count / (count - 1)) if count > 1 else torch.full_like(mean, math.nan)
    else:
        output, mean, biased, unbiased = _normalized(tensors, _folded(x), eps)
        output = _unfolded(output, x)
    inv_std = (biased + eps).rsqrt()
    statistics = zip(STATISTICS, (mean, biased, unbiased, inv_std), strict=True)
    return output, dict(statistics)


def _normalized(
    tensors: Tensors, x: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output, and the mean, biased variance, and unbiased variance, each `(C)`.

    Requires more than one value per channel. Computed in float64 on centered values, unless the
    sums are short and the means are small relative to the spread.
    """
    if _piece(x):
        output, mean, biased, unbiased = _normalized_as_sent(tensors, x, eps)
        if is_well_scaled(mean, biased, eps):
            return output, mean, biased, unbiased
    near, centered = _centered(x)
    output, rest, biased, unbiased = _normalized_as_sent(tensors, centered, eps)
    return output, mean_of(near, rest), biased, unbiased


def _normalized_as_sent(
    tensors: Tensors, x: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    # With momentum 1, torch overwrites its arguments with the batch's mean and unbiased variance.
    mean, unbiased = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    output = _batch_norm(x, mean, unbiased, tensors, eps, training=True)
    count = x.numel() // x.shape[1]
    return output, mean, unbiased * ((count - 1) / count), unbiased


def _batch_norm(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    tensors: Tensors,
    eps: float,
    *,
    training: bool,
) -> torch.Tensor:
    vectors = (tensors["weight"], tensors["bias"], mean, var)
    rest: Any = (*(v if v.dtype is x.dtype else v.to(x) for v in vectors), training, 1.0, eps)
    if not x.numel():  # the native function's gradient divides by the count, and ends the process
        weight, bias, mean, var, *others = rest
        return F.batch_norm(x, mean, var, weight, bias, *others)
    piece = _piece(x)
    if x.dtype == torch.float64 or math.prod(x.shape[2:]) <= piece:
        return torch.native_batch_norm(x, *rest)[0]
    pieces = x.view(*x.shape[:2], -1, piece).transpose(1, 2)
    output, _, _ = torch.native_batch_norm(pieces.flatten(0, 1), *rest)
    return output.view(pieces.shape).transpose(1, 2).reshape(x.shape)


def _is_narrow(x: torch.Tensor) -> bool:
    """Whether torch would add the samples' values in float32, one by one: they are its planes."""
    return x.shape[0] > FEW_SAMPLES and math.prod(x.shape[2:]) == 1


def _folded(x: torch.Tensor) -> torch.Tensor:
    """One plane of all samples, `(1, C, N)`, where there is one value per sample and channel."""
    return x.flatten(1).t().contiguous().unsqueeze(0) if _is_narrow(x) else x


def _unfolded(output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The inverse of `_folded`, in the shape of `x`."""
    return output.squeeze(0).t().reshape(x.shape) if _is_narrow(x) else output


def _piece(x: torch.Tensor) -> int:
    """The largest piece size that divides a plane evenly and is short enough; 0 if there is none.

    Torch sums the values of a plane in float32, one by one in each vector lane, and adds up planes
    in float64.
    """
    plane = math.prod(x.shape[2:])
    fits = (size for size in range(min(plane, LONGEST_SUM), SHORTEST_PIECE, -1) if not plane % size)
    return plane if plane <= LONGEST_SUM else next(fits, 0)


def _by_channel(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """View `(C)` so that it broadcasts over `(N, C, *spatial)`."""
    return vector.view(-1, *[1] * (x.dim() - 2))


def _normalized_by_hand(
    tensors: Tensors, x: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output, and the mean and biased variance `(C)`, in float64 on centered values."""
    near, x = _centered(x)
    var, rest = torch.var_mean(x, all_but_channels(x), correction=0, keepdim=True)
    scale = (var + eps).rsqrt() * _by_channel(tensors["weight"], x)
    output = (x - rest) * scale + _by_channel(tensors["bias"], x)
    return output, mean_of(near, rest.detach().flatten()), var.detach().flatten()


def _centered(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A value close to each channel's mean, `(C)`, and the input minus that value, in float64."""
    near = x.detach().mean(all_but_channels(x), dtype=torch.float64)
    return near, x.double() - _by_channel(near, x)


def all_but_channels(x: torch.Tensor) -> tuple[int, ...]:
    """Batch and spatial axes of `(N, C, *spatial)`."""
    return (0, *range(2, x.dim()))


def updated(
    tensors: Tensors, options: BatchNormOptions, batch: Mapping[str, torch.Tensor], count: int
) -> Tensors:
    """The running statistics after `count` values per channel.

    An empty batch updates only the number of batches.
    """
    tracked = options.num_batches_tracked + 1
    share = 1 / tracked if options.momentum is None else options.momentum
    if options.momentum is not None and options.momentum_weights == "running":
        share = 1 - share
    mean, var = tensors["running_mean"], tensors["running_var"]
    if count:
        unbiased = options.running_var_estimator == "unbiased"
        seen = batch["var_unbiased" if unbiased else "var"]
        mean = torch.add((1 - share) * mean, batch["mean"], alpha=share)
        var = torch.add((1 - share) * var, seen, alpha=share)
    return {
        "running_stats.mean": mean,
        "running_stats.var": var,
        "running_stats.num_batches_tracked": torch.full((), tracked),
    }


def batch_terms(sums: Sums, x: torch.Tensor, gradient: torch.Tensor | None) -> dict[str, Terms]:
    """The terms of the results of a batch norm of `(N, C, *spatial)`."""
    turned = x.transpose(0, 1).shape
    grouping = by_channel(
        x,
        lambda tensor: tensor.transpose(0, 1).flatten(1),
        lambda rows: rows.view(turned).transpose(0, 1),
    )
    options = sums.plan.options
    if not options.training:
        inv_std = (sums.inputs["running_var"] + options.eps).rsqrt()
        known = sums.inputs["running_mean"].unsqueeze(1), inv_std.unsqueeze(1)
        return normalized(sums, x, grouping, gradient, known).results
    found = normalized(sums, x, grouping, gradient)
    mean, var = found.mean.of_row(), found.var.of_row()
    old = sums.inputs["running_mean"].abs()
    return {
        **found.results,
        "batch_stats.mean": mean,
        "batch_stats.var": var,
        "batch_stats.var_unbiased": var,
        "running_stats.mean": Terms(mean.length, mean.size + old),
        "running_stats.var": var,
    }


def norm_plan(
    shapes: Shapes, options: BatchNormOptions, outputs: Shapes, channels: int, elements: int
) -> Plan:
    """The plan of a batch norm over `elements` values, at a few operations per element."""
    parameters = dict.fromkeys(PARAMETERS, (channels,))
    by_hand = options.training and (options.eps == 0 or elements == channels)
    is_narrow = math.prod(shapes.get("input", (0, 0, 2))[2:]) == 1
    return Plan(
        options,
        {**shapes, **parameters},
        outputs,
        cost=4 * elements,
        workspace=2 * channels + (WIDENED_COPIES + 2 * (by_hand or is_narrow)) * elements,
        gradient_workspace=(2 * WIDENED_COPIES + 8 * by_hand + 2 * is_narrow) * elements,
    )
