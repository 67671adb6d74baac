"""Faults of max and average pooling."""

from dataclasses import replace

from app.faults._fault import Fault
from app.layers import LayerSpec, Plan, Tensors


def _undilated(spec: LayerSpec) -> LayerSpec:
    def run(tensors: Tensors, plan: Plan) -> Tensors:
        axes = tuple(replace(axis, dilation=1) for axis in plan.axes)
        options = plan.options.model_copy(update={"dilation": (1,) * len(axes)})
        return spec.run(tensors, replace(plan, axes=axes, options=options))

    return replace(spec, run=run)


FAULTS = (
    Fault(
        name="dilation-ignored",
        families=frozenset({"max_pool"}),
        message="You ignored the dilation; the taps of a window are `dilation` elements apart.",
        source="https://github.com/sonos/tract/issues/2847",
        layer=_undilated,
        applies=lambda plan: any(axis.dilation > 1 for axis in plan.axes),
    ),
)
