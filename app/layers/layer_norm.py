"""Layer and RMS normalization: over the last axes, for each position of the leading axes."""

import math
from dataclasses import replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field

from app.errors import InvalidRequest
from app.layers._accuracy import RMS_NORM, SAMPLE_NORM
from app.layers._cases import Body, Case, numbers, with_options
from app.layers._norm import ROW_COST, NormOptions, check_parameters, notes, prepared
from app.layers._precision import WIDENED_COPIES
from app.layers._spec import ANY_RANK, LayerSpec, Notes, Plan, Port, Tensors, presets
from app.layers._terms import Grouping, Sums, Terms, normalized
from app.schemas.options import Epsilon, LayerOptions, Trailing
from app.schemas.tensors import Shape, Shapes


class _Trailing(LayerOptions):
    """The axes to normalize together: exactly one of the two options."""

    normalized_shape: Trailing | None = None
    """Lengths of the last axes, which are normalized together; or send `axis`."""
    axis: Annotated[int, Field(strict=True)] | None = None
    """First of the axes that are normalized together, in the tensor as sent; -1 is the last."""


class LayerNormOptions(_Trailing, NormOptions):
    """Options of layer normalization."""


class RmsNormOptions(_Trailing):
    """Options of RMS normalization."""

    eps: Epsilon | None = None
    """Added to the mean square before the square root; null: the convention's default, which in
    torch is the dtype's machine epsilon (that of float32 for half types)."""
    weight_offset: Annotated[int, Field(strict=True, ge=0, le=1)] = 0
    """Added to the weight: 1 reads the weight as `1 + weight`. An omitted weight scales by 1 in
    either case."""


def machine_epsilon(dtype: str) -> float:
    """Torch's eps for RMS norm; half types are computed in float32."""
    return torch.finfo(torch.float64 if dtype == "float64" else torch.float32).eps


def plan(shapes: Shapes, options: Any) -> Plan:
    """Check the request and compute its cost: a few operations per element."""
    shape = shapes["input"]
    normalized = _normalized(shape, options)
    if 0 in normalized:
        detail = f"input: normalized axes must be non-empty; got shape {list(shape)}"
        raise InvalidRequest.at("input", "empty-axis", detail)
    check_parameters(shapes, normalized, "the normalized shape")
    lead = shape[: len(shape) - len(normalized)]
    rms = isinstance(options, RmsNormOptions)
    names = ("inv_rms",) if rms else ("mean", "inv_std")
    parameters = ("weight",) if rms else ("weight", "bias")
    offset = options.weight_offset if isinstance(options, RmsNormOptions) else 0
    used = {"normalized_shape": normalized, "axis": None}
    return Plan(
        options=options.model_copy(update=used),
        inputs={**shapes, **dict.fromkeys(parameters, normalized)},
        outputs={"output": shape, **{f"statistics.{name}": lead for name in names}},
        cost=6 * math.prod(shape) + ROW_COST * math.prod(lead),
        workspace=WIDENED_COPIES * math.prod(shape) + math.prod(normalized) * offset,
        gradient_workspace=WIDENED_COPIES * math.prod(shape) + math.prod(normalized),
    )


def _normalized(shape: Shape, options: _Trailing) -> Shape:
    """The lengths of the axes that are normalized together."""
    wanted, axis = options.normalized_shape, options.axis
    if (wanted is None) == (axis is None):
        came = "neither" if axis is None else "both"
        detail = f"normalized_shape: expected exactly one of normalized_shape and axis; got {came}"
        raise InvalidRequest.at("normalized_shape", "conflict", detail)
    if axis is not None:
        if not -len(shape) <= axis < len(shape):
            detail = (
                f"axis: must be from {-len(shape)} to {len(shape) - 1} for shape {list(shape)}; "
                f"got {axis}"
            )
            raise InvalidRequest.at("axis", "out-of-range", detail)
        return shape[axis:]
    normalized = wanted if isinstance(wanted, tuple) else (wanted or 0,)
    if shape[-len(normalized) :] != normalized:
        detail = (
            f"normalized_shape: must match the last axes of the input, of shape {list(shape)}; "
            f"got {list(normalized)}"
        )
        raise InvalidRequest.at("normalized_shape", "shape-mismatch", detail)
    return normalized


def run_layer(tensors: Tensors, plan: Plan) -> Tensors:
    """`(*lead, *normalized) -> (*lead, *normalized)`, and the statistics `(*lead)`."""
    options = plan.options
    shape = options.normalized_shape
    rows = tensors["input"].flatten(-len(shape))
    rows, mean, inv_std = prepared(rows, options.eps, rows.numel() // rows.shape[-1])
    weight, bias = tensors["weight"].to(rows), tensors["bias"].to(rows)
    output = F.layer_norm(rows.view(plan.outputs["output"]), shape, weight, bias, options.eps)
    return {"output": output, "statistics.mean": mean, "statistics.inv_std": inv_std}


def run_rms(tensors: Tensors, plan: Plan) -> Tensors:
    """`(*lead, *normalized) -> (*lead, *normalized)`, and the statistic `(*lead)`.

    Squares are summed in float64, and the input is divided by the root before any multiplication:
    torch's `rms_norm` overflows above 1e19, and its gradient is wrong from 1e14 on.
    """
    x, options = tensors["input"], plan.options
    rows = x.flatten(-len(options.normalized_shape))
    # Neither `vector_norm`, on scaled rows, nor `hypot` overflows on float64's largest numbers.
    most = torch.finfo(torch.float64).max
    unit = rows.detach().abs().amax(-1, keepdim=True).double().clamp(1, most)
    length = torch.linalg.vector_norm(rows / unit, dim=-1, keepdim=True)
    rms = torch.hypot(unit * (length / rows.shape[-1] ** 0.5), unit.new_tensor(options.eps).sqrt())
    weight = tensors["weight"]
    if options.weight_offset:
        weight = weight + options.weight_offset
    output = (rows / rms.to(x)).view(x.shape) * weight
    return {"output": output, "statistics.inv_rms": 1 / rms.detach().squeeze(-1)}


def terms(sums: Sums) -> dict[str, Terms]:
    """The sums of each row, and those of the parameters' gradients over the rows."""
    x, shape = sums.inputs["input"], sums.plan.options.normalized_shape
    lead = tuple(range(x.dim() - len(shape)))
    grouping = Grouping(
        lambda tensor: tensor.flatten(-len(shape)),
        lambda rows: rows.view(x.shape),
        lambda vector: vector.expand_as(x),
        lambda tensor: tensor.sum(lead) if lead else tensor,
    )
    gradient = sums.gradient
    if isinstance(sums.plan.options, RmsNormOptions):
        inv_rms = sums.outputs["statistics.inv_rms"].unsqueeze(-1)
        found = normalized(sums, x, grouping, gradient, around_zero=inv_rms)
        return found.results
    found = normalized(sums, x, grouping, gradient)
    return {**found.results, "statistics.mean": found.mean.of_row()}


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Advice on constant rows."""
    return notes(tensors["input"].flatten(-len(plan.options.normalized_shape)))


def parameter_shapes(shape: Shape, call: object) -> Shapes:
    """The shapes of weight and bias follow from the normalized shape."""
    return {}


IMAGE = ("any axes, the last of them normalized", ANY_RANK[1:])
WEIGHT = Port(
    "weight", "normalized_shape", ANY_RANK[1:], required=False, differentiable=True, fill=1.0
)
BIAS = Port("bias", "normalized_shape", ANY_RANK[1:], required=False, differentiable=True, fill=0.0)
OFFSET_WEIGHT = replace(WEIGHT, fill=lambda options: 1.0 - options.weight_offset)
LEAD = ("the axes before", ANY_RANK)


def _cases(*choices: Body) -> tuple[Case, ...]:
    x, weight = numbers(2, 3, 4), numbers(3, 4)
    return with_options(
        {"input": x, "axis": -1, "grad_output": "ones"},
        {"axis": 1, "eps": 0.5, "weight": weight, "explain": True},
        {"axis": 0, "eps": 0, "grad_output": numbers(2, 3, 4, positive=True)},
        {"axis": None, "normalized_shape": 4},
        {"axis": None, "normalized_shape": [3, 4], "weight": weight},
        {"normalized_shape": None, "input": numbers(5)},
        *choices,
    )


SPECS = (
    LayerSpec(
        name="layer_norm",
        family="layer_norm",
        summary="The last axes of each position to mean 0 and variance 1",
        options=LayerNormOptions,
        inputs=(Port("input", *IMAGE, differentiable=True), WEIGHT, BIAS),
        outputs=(
            Port("output", *IMAGE),
            Port("statistics.mean", *LEAD),
            Port("statistics.inv_std", *LEAD),
        ),
        plan=plan,
        run=run_layer,
        explain=explain,
        presets=presets(keras={"eps": 1e-3}, flax={"eps": 1e-6}),
        accuracy=SAMPLE_NORM,
        terms=terms,
        independent=frozenset({"rows"}),
        formula="y = weight * (x - mean) / sqrt(var + eps) + bias, with mean and biased variance "
        "over the last axes",
        differences=("torch takes the lengths of the axes; the others take the axes.",),
        example={"input": [[1, 2, 4, 5], [3, 3, 0, 6]], "axis": -1},
        own_cases=_cases({"bias": numbers(4)}),
    ),
    LayerSpec(
        name="rms_norm",
        family="layer_norm",
        summary="The last axes of each position to a mean square of 1",
        options=RmsNormOptions,
        inputs=(Port("input", *IMAGE, differentiable=True), OFFSET_WEIGHT),
        outputs=(Port("output", *IMAGE), Port("statistics.inv_rms", *LEAD)),
        plan=plan,
        run=run_rms,
        presets=presets(
            torch={"eps": machine_epsilon},
            keras={"eps": 1e-6},
            onnx={"eps": 1e-5},
            flax={"eps": 1e-6},
        ),
        accuracy=RMS_NORM,
        terms=terms,
        independent=frozenset({"rows"}),
        formula="y = (weight_offset + weight) * x / sqrt(mean(x^2) + eps), with the mean over the "
        "last axes",
        differences=(
            "The default eps is the dtype's machine epsilon in torch, a fixed number elsewhere.",
            "Gemma, and Transformer Engine with `zero_centered_gamma`, scale by 1 + weight: "
            "`weight_offset: 1`.",
        ),
        example={"input": [[1, 2, 4, 5], [3, 3, 0, 6]], "axis": -1},
        own_cases=_cases(
            {"eps": None, "weight_offset": 0},
            {"weight_offset": 1, "weight": numbers(4)},
            {"weight_offset": 1},
        ),
    ),
)
