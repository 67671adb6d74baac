"""Plans from shapes, both for requests with tensors and for requests with shapes only."""

import math
from dataclasses import replace
from typing import Any

from app.compute import bounds
from app.compute._names import results, with_port
from app.compute._tensors import inward_shape, outward_shape
from app.errors import InvalidRequest
from app.layers import LayerSpec, Plan, options_of
from app.schemas.calls import Call
from app.schemas.options import CONVENTIONS
from app.schemas.tensors import Shape, Shapes


def planned(
    spec: LayerSpec, options: Any, shapes: Shapes, max_extent: int, *, batched: bool
) -> Plan:
    """The layer's plan for tensors with these shapes, as sent.

    Raises:
        InvalidRequest: shapes or options that do not fit, or that exceed a limit.

    """
    bounds.check_ranks(spec, shapes, options.layout, batched)
    bounds.check_extents(options, max_extent)
    canonical = {
        name: inward_shape(shape, options.layout, batched) if port.mapped else shape
        for (name, shape), port in with_port(spec.inputs, shapes)
    }
    return spec.plan(canonical, options)


def output_shapes(spec: LayerSpec, call: Call, plan: Plan) -> Any:
    """The shape of the output as sent, or a list of shapes for a list of outputs."""
    shapes = [
        outward_shape(plan.outputs[name], plan.options.layout, call.batched)
        if spec.outputs[0].mapped
        else plan.outputs[name]
        for name in results(spec, plan.outputs)
    ]
    return shapes if spec.many else shapes[0]


def shape_answer(spec: LayerSpec, call: Call, max_extent: int) -> dict[str, Any]:
    """The output shape and how it is derived, without allocating a tensor.

    Raises:
        InvalidRequest: shapes or options that do not fit.

    """
    try:
        options = options_of(spec, call)
        plan = plan_without_data(spec, call, options, max_extent)
    except InvalidRequest as error:
        error.errors = tuple(
            replace(found, pointer=_shape_pointer(found.pointer)) for found in error.errors
        )
        raise
    conventions = {}
    for convention in CONVENTIONS:
        try:
            there = plan_without_data(spec, call, options_of(spec, call, convention), max_extent)
            conventions[convention] = output_shapes(spec, call, there)
        except InvalidRequest:
            conventions[convention] = None
    return {
        "output_shapes" if spec.many else "output_shape": output_shapes(spec, call, plan),
        "axes": [axis.card().model_dump(exclude_none=True) for axis in plan.axes],
        "conventions": conventions,
        "output_elements": sum(math.prod(plan.outputs[n]) for n in results(spec, plan.outputs)),
        "multiply_adds": plan.cost,
    }


def plan_without_data(spec: LayerSpec, call: Any, options: Any, max_extent: int) -> Plan:
    """The plan of a shape request, with parameters of the shapes that the layer expects."""
    shapes: dict[str, Shape] = (
        {f"inputs.{i}": shape for i, shape in enumerate(call.input_shapes)}
        if spec.many
        else {"input": call.input_shape}
    )
    layout, batched = options.layout, call.batched
    bounds.check_ranks(spec, shapes, layout, batched)
    first = inward_shape(next(iter(shapes.values())), layout, batched)
    explicit = call.model_copy(update=dict(options))
    for (name, shape), port in with_port(spec.inputs, spec.parameters(first, explicit)):
        shapes[name] = outward_shape(shape, layout, batched) if port.mapped else shape
    return planned(spec, options, shapes, max_extent, batched=batched)


def _shape_pointer(pointer: str) -> str:
    """Convert a pointer into a compute request to the matching pointer into a shape request."""
    if pointer == "#/input":
        return "#/input_shape"
    return pointer.replace("#/inputs", "#/input_shapes", 1)
