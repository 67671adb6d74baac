"""Group and instance normalization: over each sample's channels, in groups or one by one."""

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field

from app.errors import InvalidRequest
from app.layers._accuracy import SAMPLE_NORM
from app.layers._cases import SIDES, Body, Case, numbers, with_options
from app.layers._norm import ROW_COST, NormOptions, check_parameters, notes, prepared
from app.layers._precision import WIDENED_COPIES
from app.layers._spec import (
    LayerSpec,
    Notes,
    Plan,
    Port,
    Tensors,
    check_not_empty,
    presets,
)
from app.layers._terms import Sums, Terms, by_channel, normalized
from app.schemas.tensors import Shape, Shapes


class InstanceNormOptions(NormOptions):
    """Options of instance normalization."""


class GroupNormOptions(NormOptions):
    """Options of group normalization."""

    num_groups: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Number of groups, which must divide the number of channels. The default is 32 in Keras and
    Flax; torch and ONNX have none."""


def plan_group(shapes: Shapes, options: GroupNormOptions) -> Plan:
    """Check the request and compute its cost: a few operations per element."""
    shape = shapes["input"]
    check_not_empty(shape)
    groups = options.num_groups
    if groups is None:
        detail = (
            f"num_groups: missing; the {options.convention} convention has no default. It must "
            f"divide the {shape[1]} channels"
        )
        raise InvalidRequest.at("num_groups", "missing", detail)
    if shape[1] % groups:
        detail = f"num_groups: must divide the {shape[1]} channels; got {groups}"
        raise InvalidRequest.at("num_groups", "shape-mismatch", detail)
    return _plan(shapes, options, groups)


def plan_instance(shapes: Shapes, options: InstanceNormOptions) -> Plan:
    """Check the request and compute its cost: a few operations per element."""
    shape = shapes["input"]
    check_not_empty(shape)
    if options.convention == "torch" and math.prod(shape[2:]) == 1:
        detail = (
            f"input: expected more than one value per sample and channel; got shape "
            f"{list(shape)}, whose variances are 0. Use `batch_norm` or `layer_norm`"
        )
        raise InvalidRequest.at("input", "one-value-per-channel", detail)
    return _plan(shapes, options, shape[1])


def _plan(shapes: Shapes, options: NormOptions, groups: int) -> Plan:
    shape = shapes["input"]
    channels = shape[1]
    check_parameters(shapes, (channels,), "one value a channel of the input")
    per_group = (shape[0], groups)
    by_hand = math.prod(shape[1:]) == groups
    return Plan(
        options=options,
        inputs={**shapes, "weight": (channels,), "bias": (channels,)},
        outputs={
            "output": shape,
            "statistics.mean": per_group,
            "statistics.inv_std": per_group,
        },
        cost=6 * math.prod(shape) + ROW_COST * math.prod(per_group),
        workspace=math.prod(shape) * (WIDENED_COPIES + 2 * by_hand),
        gradient_workspace=math.prod(shape) * WIDENED_COPIES,
    )


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *spatial)`, and the statistics `(N, groups)`."""
    x, eps = tensors["input"], plan.options.eps
    values_per_channel = x.numel() // x.shape[1]
    groups, mean, inv_std = prepared(_groups(x, plan), eps, values_per_channel)
    x = groups.view(x.shape)
    weight, bias = tensors["weight"].to(x), tensors["bias"].to(x)
    if groups.shape[-1] == 1 or not x.numel():
        # torch's fused variance of a single value is only rounding noise.
        zero = (x - x).detach()  # NaN where x is not finite, and so is the gradient there
        scale = weight.view(-1, *[1] * (x.dim() - 2))
        output = zero * x * (eps**-0.5 if eps else math.inf) * scale + bias.view_as(scale)
    else:
        output = F.group_norm(x, groups.shape[1], weight, bias, eps)
    return {"output": output, "statistics.mean": mean, "statistics.inv_std": inv_std}


def _groups(x: torch.Tensor, plan: Plan) -> torch.Tensor:
    """`(N, C, *spatial) -> (N, groups, values)`."""
    samples, groups = plan.outputs["statistics.mean"]
    return x.reshape(samples, groups, math.prod(x.shape[1:]) // groups)


def terms(sums: Sums) -> dict[str, Terms]:
    """The sums of each group, and those of the parameters' gradients."""
    x, groups = sums.inputs["input"], sums.outputs["statistics.mean"].shape
    count = math.prod(x.shape[1:]) // groups[1]
    grouping = by_channel(
        x, lambda tensor: tensor.reshape(*groups, count), lambda rows: rows.reshape(x.shape)
    )
    found = normalized(sums, x, grouping, sums.gradient)
    return {**found.results, "statistics.mean": found.mean.of_row()}


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Advice on constant groups."""
    return notes(_groups(tensors["input"], plan))


def parameter_shapes(shape: Shape, call: object) -> Shapes:
    """Shapes of the per-channel vectors for an input."""
    return dict.fromkeys(("weight", "bias"), shape[1:2])


def _spec(name: str, ranks: tuple[int, ...], **parts: Any) -> LayerSpec:
    axes = "(N, C, *spatial)"
    return LayerSpec(
        name=name,
        family="group_norm",
        inputs=(
            Port("input", axes, ranks, mapped=True, differentiable=True),
            Port("weight", "(C)", (1,), required=False, differentiable=True, fill=1.0),
            Port("bias", "(C)", (1,), required=False, differentiable=True, fill=0.0),
        ),
        outputs=(
            Port("output", axes, ranks, mapped=True),
            Port("statistics.mean", "(N, groups)", (2,), mapped=True),
            Port("statistics.inv_std", "(N, groups)", (2,), mapped=True),
        ),
        run=run,
        accuracy=SAMPLE_NORM,
        terms=terms,
        independent=frozenset({"batch"}),
        explain=explain,
        parameters=parameter_shapes,
        **parts,
    )


def _cases(channels: int, base: Body, *choices: Body) -> tuple[Case, ...]:
    x = numbers(2, channels, 3)
    vectors = {"weight": numbers(channels), "bias": numbers(channels, positive=True)}
    return with_options(
        {"input": x, "grad_output": "ones", **base},
        {"eps": 0.5, **vectors, "explain": True},
        {"eps": 0, "grad_output": numbers(2, channels, 3, positive=True)},
        *({"input": numbers(2, channels, *SIDES[dims])} for dims in (2, 3)),
        *choices,
    )


FORMULA = "y = weight * (x - mean) / sqrt(var + eps) + bias, with mean and biased variance {each}"

SPECS = (
    _spec(
        "instance_norm",
        (3, 4, 5),
        summary="Each channel of each sample to mean 0 and variance 1",
        options=InstanceNormOptions,
        plan=plan_instance,
        presets=presets(keras={"eps": 1e-3}, flax={"eps": 1e-6}),
        formula=FORMULA.format(each="per sample and channel"),
        differences=(
            "Keras has no layer of this name: it is GroupNormalization with groups=-1.",
            "With one value per channel, torch refuses; the others get a variance of 0.",
        ),
        example={"input": [[[1, 2, 4, 5], [3, 3, 0, 6]]]},
        own_cases=_cases(2, {}),
    ),
    _spec(
        "group_norm",
        tuple(range(2, 9)),
        summary="Each group of channels of each sample to mean 0 and variance 1",
        options=GroupNormOptions,
        plan=plan_group,
        presets=presets(
            keras={"eps": 1e-3, "num_groups": 32}, flax={"eps": 1e-6, "num_groups": 32}
        ),
        formula=FORMULA.format(each="per sample and group of channels"),
        differences=(
            "torch and ONNX require `num_groups`; in Keras and Flax, it is 32 by default.",
            "Before version 21, ONNX had one weight per group; here it is one per channel.",
        ),
        example={"input": [[[1, 2], [4, 5], [3, 3], [0, 6]]], "num_groups": 2},
        own_cases=_cases(
            4,
            {"num_groups": 2},
            {"num_groups": 1, "input": numbers(3, 4)},
            {"num_groups": 4},
            {"num_groups": None, "input": numbers(1, 2, 32), "convention": "keras"},
        ),
    ),
)
