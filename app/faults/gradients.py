"""Faults of the loss, which every layer can have."""

import math
from collections.abc import Callable

from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._gradients import scaled
from app.layers import LAYERS, LayerSpec, Plan, Tensors


def averaged(count: Callable[[LayerSpec, Tensors], int]) -> Callable[[LayerSpec], LayerSpec]:
    """The layer with a gradient divided by `count(spec, outputs)`."""

    def layer(spec: LayerSpec) -> LayerSpec:
        def run(tensors: Tensors, plan: Plan) -> Tensors:
            found = spec.run(tensors, plan)
            own = {name: value for name, value in found.items() if _is_result(spec, name)}
            share = 1 / max(count(spec, own), 1)
            return {**found, **{name: scaled(value, share) for name, value in own.items()}}

        return rebuilt(spec, run, room=_room)

    return layer


def _room(plan: Plan) -> int:
    """A copy of every output."""
    return sum(map(math.prod, plan.outputs.values()))


def _is_result(spec: LayerSpec, name: str) -> bool:
    return name.partition(".")[0] == spec.result


def _elements(spec: LayerSpec, results: Tensors) -> int:
    return sum(result.numel() for result in results.values())


def _samples(spec: LayerSpec, results: Tensors) -> int:
    return sum(len(result) if result.dim() else 1 for result in results.values())


ALL = frozenset(spec.family for spec in LAYERS.values())
FAULTS = (
    Fault(
        name="loss-mean",
        families=ALL,
        message="Your gradient is that of the output's mean; it is that of the sum of the output "
        "times `grad_output`.",
        changes=GRADIENTS,
        layer=averaged(_elements),
    ),
    Fault(
        name="loss-mean-over-batch",
        families=ALL,
        message="Your gradient is divided by the number of samples; it is that of their sum.",
        changes=GRADIENTS,
        layer=averaged(_samples),
        applies=lambda plan: any(shape[:1] > (1,) for shape in plan.outputs.values()),
    ),
)
