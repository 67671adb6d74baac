"""Faults of averages and p-norms: what is not divided, and no root."""

import math
from dataclasses import replace

import torch

from app.faults._averages import divisors, is_average
from app.faults._axes import extent
from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._gradients import scaled
from app.layers import LayerSpec, Plan, Tensors

SLIDING = frozenset({"avg_pool", "adaptive_pool"})


def undivided(spec: LayerSpec) -> LayerSpec:
    """The windows' sums."""
    if not is_average(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        output = spec.run(tensors, plan)["output"]
        return (
            {"output": output * _divisor(spec, plan, output)}
            if output.numel()
            else {"output": output}
        )

    return rebuilt(spec, run, room=_room)


def without_root(spec: LayerSpec) -> LayerSpec:
    """The windows' sums of powers."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x, p = tensors["input"].double(), plan.options.norm_type
        powers = (x.abs() if plan.options.lp_abs else x).pow(p)
        options = plan.options.model_copy(update={"norm_type": 1.0, "lp_abs": False})
        return spec.run({"input": powers}, replace(plan, options=options))

    return rebuilt(spec, run, room=lambda plan: 4 * math.prod(plan.inputs["input"]))


def gradient_undivided(spec: LayerSpec) -> LayerSpec:
    """The gradient of the windows' sums."""
    return _with_divisor(spec, over_kernel=False)


def gradient_over_kernel(spec: LayerSpec) -> LayerSpec:
    """The gradient of the windows' sums, over the size of the (largest) window."""
    return _with_divisor(spec, over_kernel=True)


def _with_divisor(spec: LayerSpec, *, over_kernel: bool) -> LayerSpec:
    if not is_average(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        output = spec.run(tensors, plan)["output"]
        if 0 in output.shape:
            return {"output": output}
        divisor = _divisor(spec, plan, output)
        return {"output": scaled(output, divisor / (_kernel(plan) if over_kernel else 1))}

    return rebuilt(spec, run, room=_room)


def _divisor(spec: LayerSpec, plan: Plan, output: torch.Tensor) -> torch.Tensor:
    divisor = divisors(spec, plan, output.device).to(output)
    return divisor.flatten()[0] if spec.family == "global_pool" else divisor


def _room(plan: Plan) -> int:
    return 4 * math.prod(plan.outputs["output"])


def _kernel(plan: Plan) -> int:
    return math.prod(map(extent, plan.axes))


FAULTS = (
    Fault(
        name="average-undivided",
        families=SLIDING | {"global_pool"},
        message="You left the windows' sums undivided; divide each by the window's divisor.",
        layer=undivided,
    ),
    Fault(
        name="root-missing",
        families=frozenset({"lp_pool"}),
        message="You left out the root: your output is the sum of the powers; take its p-th root.",
        layer=without_root,
        applies=lambda plan: plan.options.norm_type != 1,
    ),
    Fault(
        name="gradient-undivided",
        families=SLIDING | {"global_pool"},
        message="Your gradient gives every element of a window all of the output's gradient; "
        "divide it by the window's divisor.",
        changes=GRADIENTS,
        layer=gradient_undivided,
    ),
    Fault(
        name="gradient-over-kernel",
        families=SLIDING,
        message="Your gradient is always divided by the kernel's size; divide it by what the "
        "window's sum was divided by.",
        source="https://github.com/pytorch/pytorch/issues/198119",
        changes=GRADIENTS,
        layer=gradient_over_kernel,
    ),
)
