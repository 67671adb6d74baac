"""Faults of averages' gradients."""

import math

from app.faults._averages import divisors, is_average
from app.faults._axes import extent
from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._gradients import scaled
from app.layers import LayerSpec, Plan, Tensors

SLIDING = frozenset({"avg_pool", "adaptive_pool"})


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
        divisor = divisors(spec, plan, output.device).to(output)
        if spec.family == "global_pool":
            divisor = divisor.flatten()[0]
        return {"output": scaled(output, divisor / (_kernel(plan) if over_kernel else 1))}

    return rebuilt(spec, run, room=lambda plan: 4 * math.prod(plan.outputs["output"]))


def _kernel(plan: Plan) -> int:
    return math.prod(map(extent, plan.axes))


FAULTS = (
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
