"""Faults of convolution: its weight."""

import math

from app.faults._fault import Fault, rebuilt
from app.faults._weights import ordered, ordered_shape
from app.layers import LayerSpec, Plan, Tensors
from app.schemas.tensors import Shape

CONV = frozenset({"conv"})


def kernel_flipped(spec: LayerSpec) -> LayerSpec:
    """A true convolution: the kernel mirrored along each spatial axis."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        tensors, plan = ordered(tensors, plan)
        weight = tensors["weight"]
        return spec.run({**tensors, "weight": weight.flip(tuple(range(2, weight.dim())))}, plan)

    return rebuilt(spec, run, room=_room)


def weight_transposed(spec: LayerSpec) -> LayerSpec:
    """Output and input channels exchanged, within each group."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        tensors, plan = ordered(tensors, plan)
        weight, count = tensors["weight"], plan.options.groups
        turned = weight.view(count, -1, *weight.shape[1:]).transpose(1, 2)
        return spec.run({**tensors, "weight": turned.reshape(weight.shape)}, plan)

    return rebuilt(spec, run, room=_room)


def kernel_transposed(spec: LayerSpec) -> LayerSpec:
    """The kernel's spatial axes in reversed order."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        tensors, plan = ordered(tensors, plan)
        weight = tensors["weight"]
        turned = weight.permute(0, 1, *range(weight.dim() - 1, 1, -1)).contiguous()
        return spec.run({**tensors, "weight": turned}, plan)

    return rebuilt(spec, run, room=_room)


def _room(plan: Plan) -> int:
    """Copies of the weight in other orders."""
    return 2 * math.prod(plan.inputs["weight"])


def _weight(plan: Plan) -> Shape:
    return ordered_shape(plan.inputs["weight"], plan.options)


def _is_square(plan: Plan) -> bool:
    """Whether every group has as many output channels as input channels, and more than one."""
    out, channels = _weight(plan)[:2]
    return out == channels * plan.options.groups and channels > 1


def _is_symmetric(plan: Plan) -> bool:
    kernel = _weight(plan)[2:]
    return kernel == kernel[::-1] and max(kernel) > 1 < len(kernel)


FAULTS = (
    Fault(
        name="kernel-flipped",
        families=CONV,
        message="You mirrored the kernel, a convolution in the mathematical sense; this layer is "
        "a cross-correlation, and takes the kernel as it is.",
        layer=kernel_flipped,
        applies=lambda plan: any(axis.kernel > 1 for axis in plan.axes),
    ),
    Fault(
        name="weight-transposed",
        families=CONV,
        message="You exchanged the weight's output and input channels; it is [out, in, *kernel], "
        "or with `weight_layout: hwio` [*kernel, in, out].",
        layer=weight_transposed,
        applies=_is_square,
    ),
    Fault(
        name="kernel-transposed",
        families=CONV,
        message="You read the kernel's spatial axes in reversed order; they are in the order of "
        "the input's axes, (D, H, W).",
        layer=kernel_transposed,
        applies=_is_symmetric,
    ),
)
