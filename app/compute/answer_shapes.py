"""The shapes of everything in an answer, as sent, from its plan alone."""

from app.compute._names import with_port
from app.compute._tensors import outward_shape
from app.layers import LayerSpec, Plan
from app.schemas.calls import ComputeCall
from app.schemas.tensors import Shape


def answer_shapes(spec: LayerSpec, call: ComputeCall, plan: Plan) -> dict[str, Shape]:
    """The shape of each output and gradient by its name in the answer."""
    layout, batched = plan.options.layout, call.batched
    shapes = {
        name: outward_shape(shape, layout, batched) if port.mapped else shape
        for (name, shape), port in with_port(spec.outputs, plan.outputs)
    }
    for (name, shape), port in with_port(spec.inputs, plan.inputs):
        if port.differentiable:
            own = outward_shape(shape, layout, batched) if port.mapped else shape
            shapes[f"gradients.{name}"] = own
    return shapes
