"""Faults of weight and bias: exchanged, or not applied."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from app.faults._fault import Fault, rebuilt
from app.faults._gradients import with_gradients
from app.faults._norm import BATCH, NORMS, is_rms
from app.layers import LayerSpec, Plan, Tensors

CENTERED = BATCH | {"group_norm", "layer_norm"}


def affine_swapped(spec: LayerSpec) -> LayerSpec:
    """The normalized value times the bias, plus the weight."""
    if is_rms(spec):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        return spec.run({**tensors, "weight": tensors["bias"], "bias": tensors["weight"]}, plan)

    return replace(spec, run=run)


def ignored(names: Sequence[str], *, differentiated: bool) -> Callable[[LayerSpec], LayerSpec]:
    """A weight of ones and a bias of zeros in place of those that were sent.

    Where they are `differentiated`, they have the gradients that they have at these values;
    otherwise gradients of 0, as in a graph that they are not part of.
    """

    def layer(spec: LayerSpec) -> LayerSpec:
        own = [name for name in names if any(port.name == name for port in spec.inputs)]
        if not own:
            return spec

        def run(tensors: Tensors, plan: Plan) -> Tensors:
            neutral = {name: _neutral(name, tensors[name], plan, differentiated) for name in own}
            return spec.run({**tensors, **neutral}, plan)

        return rebuilt(spec, run, room=_room)

    return layer


def _neutral(name: str, sent: torch.Tensor, plan: Plan, differentiated: bool) -> torch.Tensor:
    """What changes nothing, in place of a tensor."""
    one = 1 - getattr(plan.options, "weight_offset", 0) if name == "weight" else 0
    value = torch.full_like(sent.detach(), one)
    return with_gradients(value, (sent,), lambda grad: (grad * differentiated,))


def _room(plan: Plan) -> int:
    """Copies of weight and bias, and of their gradients."""
    return 2 * sum(math.prod(plan.inputs.get(name, (0,))) for name in ("weight", "bias"))


BOTH, BIAS = ("weight", "bias"), ("bias",)
FAULTS = (
    Fault(
        name="affine-swapped",
        families=CENTERED,
        message="You exchanged weight and bias; the normalized value is multiplied by the weight, "
        "and the bias is added.",
        layer=affine_swapped,
    ),
    *(
        Fault(
            name="affine-ignored",
            families=NORMS,
            message="You left out weight and bias; the normalized value is multiplied by the "
            f"weight, and the bias is added{more}.",
            layer=ignored(BOTH, differentiated=differentiated),
        )
        for differentiated, more in ((True, ""), (False, ", and both have gradients"))
    ),
    *(
        Fault(
            name="bias-ignored",
            families=CENTERED | {"conv"},
            message=f"You left out the bias; it is added at the end{more}.",
            layer=ignored(BIAS, differentiated=differentiated),
        )
        for differentiated, more in ((True, ""), (False, ", and has a gradient"))
    ),
)
