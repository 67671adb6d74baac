"""Adaptive pooling: windows chosen so that the output has a given size."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from app.errors import InvalidRequest
from app.layers._accuracy import AVERAGE, MAXIMUM
from app.layers._cases import Case, image, numbers, with_options
from app.layers._pooling import average_notes, max_notes
from app.layers._precision import WIDE, widened, widened_workspace
from app.layers._spec import (
    BATCH_AND_CHANNELS,
    SPATIAL,
    LayerSpec,
    Notes,
    Plan,
    Tensors,
    check_not_empty,
    feature_map,
)
from app.layers._terms import linear_in_window, selected_maximum
from app.layers._windows import per_axis
from app.schemas.answers import AxisCard
from app.schemas.options import Flag, LayerOptions, OutputSize
from app.schemas.tensors import Shapes


class AdaptiveAvgPoolOptions(LayerOptions):
    """Options of adaptive average pooling."""

    output_size: OutputSize
    """Length of each spatial axis of the output; null keeps that of the input."""


class AdaptiveMaxPoolOptions(AdaptiveAvgPoolOptions):
    """Options of adaptive max pooling."""

    return_indices: Flag = False
    """Whether to return the index of each maximum, counted within its plane."""


@dataclass(frozen=True, slots=True)
class AdaptiveAxis:
    """Output `i` looks at [floor(i * n / o), ceil((i + 1) * n / o)); windows may overlap.

    Source: torch `start_index` and `end_index`.
    """

    input: int
    output: int

    def taps(self, index: int) -> range:
        """Input coordinates of window `index`."""
        return range(index * self.input // self.output, -(-(index + 1) * self.input // self.output))

    @property
    def largest(self) -> int:
        """Length of the largest window.

        Window `i` begins `i * input % output` parts, of size 1 / `output`, into its first element;
        the largest such offset is `output - gcd`.
        """
        if not self.output:
            return 0
        whole, rest = divmod(self.input, self.output)
        return whole + (rest > 0) + (rest > math.gcd(self.input, self.output))

    @property
    def total(self) -> int:
        """Total number of taps of all windows."""
        if not self.output:
            return 0
        return self.input + self.output - math.gcd(self.input, self.output)

    @property
    def overlap(self) -> int:
        """Upper bound on how many windows an element is in."""
        return -(-self.output // self.input) + 1

    def card(self) -> AxisCard:
        """The explanation of the axis."""
        even = self.output and self.input % self.output == 0
        return AxisCard(
            input=self.input,
            kernel=self.largest,
            effective_kernel=self.largest,
            padding=(0, 0),
            stride=self.input // self.output if even else None,
            formula=(
                f"window i = [floor(i * {self.input} / {self.output}), "
                f"ceil((i + 1) * {self.input} / {self.output}))"
            ),
            output=self.output,
            dropped_window=False,
        )


def plan(shapes: Shapes, options: AdaptiveAvgPoolOptions) -> Plan:
    """Windows, output shape, and cost: one operation per tap."""
    shape = shapes["input"]
    check_not_empty(shape)
    sizes = per_axis("output_size", options.output_size, len(shape) - 2)
    axes = tuple(
        AdaptiveAxis(length, length if size is None else size)
        for length, size in zip(shape[2:], sizes, strict=True)
    )
    if any(axis.output >= 2**31 for axis in axes):
        detail = "output_size: must be less than 2147483648"
        raise InvalidRequest.at("output_size", "out-of-range", detail)
    output = (*shape[:2], *(axis.output for axis in axes))
    is_max = isinstance(options, AdaptiveMaxPoolOptions)
    indices = getattr(options, "return_indices", False)
    return Plan(
        options=options.model_copy(update={"output_size": output[2:]}),
        inputs=shapes,
        outputs={"output": output, **({"indices": output} if indices else {})},
        cost=math.prod(shape[:2]) * math.prod(axis.total for axis in axes),
        # torch always computes indices for max; its input is widened only for a gradient.
        workspace=2 * math.prod(output)
        if is_max
        else widened_workspace(math.prod(shape), math.prod(output)),
        gradient_workspace=WIDE * (math.prod(shape) + math.prod(output)),
        axes=axes,
    )


def _nothing(x: torch.Tensor, plan: Plan) -> torch.Tensor:
    """An empty output that is still connected to the input's graph; torch's own has no gradient."""
    return x.flatten()[:0].view(plan.outputs["output"])


def run_avg(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *output_size)`."""
    x, size = tensors["input"], plan.options.output_size
    if 0 in plan.outputs["output"]:
        return {"output": _nothing(x, plan)}
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    return {"output": pool(x.double(), size)}


def run_max(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *output_size)`, and the indices if requested."""
    x, size = tensors["input"], plan.options.output_size
    if 0 in plan.outputs["output"]:
        output = _nothing(x, plan)
        where = output.detach().long()
    else:
        pool: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[
            len(size) - 1
        ]
        if x.requires_grad:
            x = widened(x, math.prod(axis.overlap for axis in plan.axes))
        output, where = pool(x, size, return_indices=True)
    return {"output": output, **({"indices": where} if plan.options.return_indices else {})}


def explain_avg(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """The windows with their divisors."""
    return average_notes(tensors["input"], plan)


def explain_max(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """The windows with their maxima."""
    return max_notes(tensors["input"], plan)


def _example(dims: int) -> dict[str, object]:
    rows: Any = [1, 3, 2, 4, 5] if dims == 1 else [[1, 3, 2], [5, 7, 8]]
    return {"input": [[[rows] if dims == 3 else rows]], "output_size": [1, 2, 2][-dims:]}


def _cases(kind: str, dims: int) -> tuple[Case, ...]:
    indices = ({"return_indices": True}, {"return_indices": False}) if kind == "max" else ()
    return with_options(
        {"input": image(dims), "output_size": 2, "grad_output": "ones"},
        {"output_size": 5, "explain": True},
        {"output_size": None},
        {"output_size": [3, None, 1][:dims]},
        {"grad_output": numbers(2, 2, *[2] * dims)},
        *indices,
    )


SPECS = tuple(
    LayerSpec(
        name=f"adaptive_{kind}_pool{dims}d",
        family="adaptive_pool",
        summary=f"{word} of windows that reduce {SPATIAL[dims]} to a given size",
        options=options,
        inputs=(feature_map("input", dims, differentiable=True),),
        outputs=tuple(feature_map(name, dims, required=name == "output") for name in outputs),
        plan=plan,
        run=run,
        explain=explain,
        accuracy=MAXIMUM if kind == "max" else AVERAGE,
        terms=selected_maximum if kind == "max" else linear_in_window,
        independent=BATCH_AND_CHANNELS,
        formula="window i of an axis of n elements and o outputs is [floor(i * n / o), "
        "ceil((i + 1) * n / o)); windows may overlap",
        differences=(
            "ONNX has no adaptive pooling: exporters fail unless o divides n.",
            "torch accepts null for an axis only in 2d and 3d; Lamina also in 1d.",
        ),
        example=_example(dims),
        own_cases=_cases(kind, dims),
    )
    for kind, word, options, run, explain, outputs in (
        (
            "max",
            "Largest element",
            AdaptiveMaxPoolOptions,
            run_max,
            explain_max,
            ("output", "indices"),
        ),
        ("avg", "Mean", AdaptiveAvgPoolOptions, run_avg, explain_avg, ("output",)),
    )
    for dims in (1, 2, 3)
)
