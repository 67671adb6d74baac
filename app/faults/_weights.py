"""A convolution's weight as `[out, in / groups, *kernel]`, in whichever order it was sent."""

from dataclasses import replace

from app.layers import Plan, Tensors
from app.schemas.options import LayerOptions
from app.schemas.tensors import Shape

HWIO = "hwio"


def ordered(tensors: Tensors, plan: Plan) -> tuple[Tensors, Plan]:
    """The tensors with the weight in that order, and the plan for them; gradients come back in the
    order that was sent.
    """
    if plan.options.weight_layout != HWIO:
        return tensors, plan
    weight = tensors["weight"].movedim((-1, -2), (0, 1)).contiguous()
    options = plan.options.model_copy(update={"weight_layout": "oihw"})
    inputs = {**plan.inputs, "weight": tuple(weight.shape)}
    return {**tensors, "weight": weight}, replace(plan, options=options, inputs=inputs)


def ordered_shape(weight: Shape, options: LayerOptions) -> Shape:
    """The lengths of a weight as sent, in that order."""
    is_hwio = getattr(options, "weight_layout", None) == HWIO
    return (*weight[:-3:-1], *weight[:-2]) if is_hwio else weight


def with_kernel(weight: Shape, kernel: Shape, options: LayerOptions) -> Shape:
    """The lengths of a weight as sent, with those of its kernel replaced."""
    is_hwio = getattr(options, "weight_layout", None) == HWIO
    return (*kernel, *weight[-2:]) if is_hwio else (*weight[:2], *kernel)
