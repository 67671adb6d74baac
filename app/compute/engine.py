"""The engine: takes a layer's spec and a validated request, and returns an answer of payloads.

The steps (`load`, the layer's own `run`, `gradients`, `pack`) are independent of each other, so
that requests with more than one layer can be built from them.
"""

from typing import Any

import torch

from app.compute import bounds
from app.compute._names import results, sent_tensors
from app.compute.device import choose_device, device_name
from app.compute.estimates import Estimate, estimated
from app.compute.explanation import explained
from app.compute.gradients import input_gradients
from app.compute.load import Loader
from app.compute.pack import laid_out, packed
from app.compute.shapes import output_shapes, planned, shape_answer
from app.errors import DeviceLost, LaminaError, OutOfMemory
from app.layers import LayerSpec, Plan, options_of
from app.limits import Limits
from app.schemas.calls import Call, ComputeCall
from app.schemas.tensors import TensorPayload

MAX_PLANS = 1024
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
Answer = dict[str, Any]
"""An answer's fields by dotted name, in order: `gradients.input`, `replicas.0.output`."""


class Engine:
    """Plans and runs layers on one device. Call `run` from a single thread per process."""

    def __init__(self, device: str, limits: Limits) -> None:
        self.device = choose_device(device)
        self.device_name = device_name(self.device)
        self.limits = limits
        self._plans: dict[tuple[object, ...], tuple[Plan, Estimate]] = {}

    @property
    def device_memory_bytes(self) -> int:
        """Memory that tensors occupy on an accelerator; 0 on a CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def warm_up(self) -> None:
        """Run a first gradient on this thread, which takes torch a while to set up."""
        x = torch.ones(1, device=self.device, requires_grad=True)
        input_gradients({"input": x}, (x.exp().exp(),), (torch.ones_like(x),))

    def plan(
        self, spec: LayerSpec, call: ComputeCall, *, keep: bool = True
    ) -> tuple[Plan, Estimate]:
        """Check a request and work out its output shapes and cost, without touching a tensor.

        Requests that differ only in their tensors' values share a plan, if it is to `keep`.

        Raises:
            InvalidRequest: shapes or options that do not fit, or that exceed a limit.

        """
        if not keep:
            return self._checked_plan(spec, call)
        fields = call.__dict__.values()
        key = (spec, frozenset(call.model_fields_set), *map(_without_numbers, fields))
        known = self._plans.get(key)
        if known is None:
            known = self._checked_plan(spec, call)
            if len(self._plans) == MAX_PLANS:
                self._plans.clear()
            self._plans[key] = known
        return known

    def shape(self, spec: LayerSpec, call: Call) -> Answer:
        """The output shape and how it is derived; sizes are not limited by cost.

        Raises:
            InvalidRequest: shapes or options that do not fit.

        """
        return shape_answer(spec, call, self.limits.requests.max_extent)

    def run(self, spec: LayerSpec, call: ComputeCall, plan: Plan) -> Answer:
        """Run the layer and return the answer's fields by dotted name, in order.

        Raises:
            InvalidRequest: values that a layer cannot accept, such as an index out of range.
            OutOfMemory: the device has too little free memory at the moment.
            DeviceLost: the accelerator failed.

        """
        try:
            with torch.set_grad_enabled(getattr(call, spec.gradient) is not None):
                return self._run(spec, call, plan)
        except DEVICE_ERRORS as error:
            raise translated(error) from error

    def _checked_plan(self, spec: LayerSpec, call: ComputeCall) -> tuple[Plan, Estimate]:
        bounds.check_dtypes(call)
        shapes = {name: payload.shape for name, payload in sent_tensors(spec, call).items()}
        bounds.check_strides(shapes)
        options = options_of(spec, call)
        plan = planned(spec, options, shapes, self.limits.requests.max_extent, batched=call.batched)
        bounds.check_gradient(spec, call, output_shapes(spec, call, plan))
        full = bounds.without_empty_axes(shapes)
        like = plan
        if full != shapes:
            like = planned(
                spec, options, full, self.limits.requests.max_extent, batched=call.batched
            )
        estimate = estimated(spec, like, call)
        bounds.check_cost(spec, plan, like, call, estimate, self.limits.results)
        return plan, estimate

    def _run(self, spec: LayerSpec, call: ComputeCall, plan: Plan) -> Answer:
        loader = Loader(spec, call, plan, self.device)
        inputs = loader.inputs()
        outputs = spec.run(inputs, plan)
        first = results(spec, outputs)
        found = laid_out(spec.outputs, outputs, plan, call)
        if getattr(call, spec.gradient) is not None:
            own = tuple(outputs[name] for name in first)
            gradients = input_gradients(inputs, own, loader.output_gradients(own))
            gradients = laid_out(spec.inputs, gradients, plan, call)
            found |= {f"gradients.{name}": gradient for name, gradient in gradients.items()}
        payloads = packed(found, call.dtype, first)
        shapes = [payloads[name].shape for name in first]
        answer: Answer = {
            "layer": spec.name,
            "dtype": call.dtype,
            "device": str(self.device),
            **{name: payloads.pop(name) for name in first},
            **({"output_shapes": shapes} if spec.many else {"output_shape": shapes[0]}),
            **payloads,
            "options": vars(plan.options),
        }
        if call.explain:
            answer["explanation"] = explained(spec, call, plan, inputs, outputs)
        return answer


def translated(error: RuntimeError) -> LaminaError:
    """The service's error for one of torch's about the device."""
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory("the device has too little free memory at the moment")
    return DeviceLost("the accelerator failed during this request")


def _without_numbers(value: object) -> object:
    """The part of a request's field that a plan depends on: for a tensor, its shape."""
    if isinstance(value, TensorPayload):
        return value.shape
    if isinstance(value, tuple) and value and isinstance(value[0], TensorPayload):
        return tuple(payload.shape for payload in value)
    return value
