"""Faults of convolution: its weight."""

from dataclasses import replace

from app.faults._fault import Fault
from app.layers import LayerSpec, Plan, Tensors

CONV = frozenset({"conv"})


def kernel_flipped(spec: LayerSpec) -> LayerSpec:
    """A true convolution: the kernel mirrored along each spatial axis."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        weight = tensors["weight"]
        return spec.run({**tensors, "weight": weight.flip(tuple(range(2, weight.dim())))}, plan)

    return replace(spec, run=run)


def weight_transposed(spec: LayerSpec) -> LayerSpec:
    """Output and input channels exchanged, within each group."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        weight, count = tensors["weight"], plan.options.groups
        turned = weight.view(count, -1, *weight.shape[1:]).transpose(1, 2)
        return spec.run({**tensors, "weight": turned.reshape(weight.shape)}, plan)

    return replace(spec, run=run)


def kernel_transposed(spec: LayerSpec) -> LayerSpec:
    """The kernel's spatial axes in reversed order."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        weight = tensors["weight"]
        turned = weight.permute(0, 1, *range(weight.dim() - 1, 1, -1)).contiguous()
        return spec.run({**tensors, "weight": turned}, plan)

    return replace(spec, run=run)


def _is_square(plan: Plan) -> bool:
    """Whether every group has as many output channels as input channels, and more than one."""
    out, channels = plan.inputs["weight"][:2]
    return out == channels * plan.options.groups and channels > 1


def _is_symmetric(plan: Plan) -> bool:
    kernel = plan.inputs["weight"][2:]
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
        message="You read the weight as [in, out, *kernel]; it is [out, in, *kernel].",
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
