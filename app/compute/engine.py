"""The engine: a layer's spec and a validated request in, an answer of payloads out."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from app.compute import bounds
from app.compute._tensors import (
    inward,
    inward_shape,
    outward,
    outward_shape,
    to_payload,
    to_torch,
    working_dtype,
)
from app.compute.device import choose_device, device_name
from app.errors import DeviceLost, InvalidRequest, OutOfMemory
from app.layers import LayerSpec, Plan, Tensors, options_of
from app.schemas.answers import Advice, Explanation
from app.schemas.calls import ComputeCall, ShapeCall
from app.schemas.tensors import DTYPES, Shape, TensorPayload

MAX_PLANS = 1024
RELATIVE_TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-4}


class Engine:
    """Plans and runs layers on one device. `run` belongs on one thread of a process."""

    def __init__(self, device: str, limits: Mapping[str, int]) -> None:
        self.device = choose_device(device)
        self.device_name = device_name(self.device)
        self.limits = dict(limits)
        self._plans: dict[tuple[object, ...], Plan] = {}

    def plan(self, spec: LayerSpec, call: ComputeCall) -> Plan:
        """Check a request and know its result's shape and cost; no tensor is touched.

        Requests that differ in their numbers alone share a plan.

        Raises:
            InvalidRequest: shapes or options that do not fit, or over a limit.

        """
        fields = call.__dict__.values()
        key = (spec, *(v.shape if isinstance(v, TensorPayload) else v for v in fields))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._checked_plan(spec, call)
            if len(self._plans) == MAX_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _checked_plan(self, spec: LayerSpec, call: ComputeCall) -> Plan:
        self._check_dtypes(call)
        payloads = {port.name: getattr(call, port.name) for port in spec.inputs}
        shapes = {name: sent.shape for name, sent in payloads.items() if sent is not None}
        plan = self._plan(spec, call, shapes)
        bounds.check_plan(spec, plan, call, self.limits)
        output = outward_shape(plan.outputs["output"], call.layout, call.batched)
        bounds.check_gradient(call, output)
        return plan

    def shape(self, spec: LayerSpec, call: ShapeCall) -> dict[str, Any]:
        """The output shape and how it comes about, whatever the sizes."""
        shapes = {"input": call.input_shape}
        inward_input = inward_shape(call.input_shape, call.layout, call.batched)
        vectors = {port.name for port in spec.inputs if not port.mapped}
        if len(inward_input) > 1:
            shapes |= dict.fromkeys(vectors, (inward_input[1],))
        try:
            plan = self._plan(spec, call, shapes)
        except InvalidRequest as error:
            error.errors = tuple(
                replace(found, pointer="#/input_shape") if found.pointer == "#/input" else found
                for found in error.errors
            )
            raise
        output = outward_shape(plan.outputs["output"], call.layout, call.batched)
        return {
            "output_shape": output,
            "axes": [axis.card().model_dump(exclude_none=True) for axis in plan.axes],
            "conventions": {call.convention: output},
            "output_elements": math.prod(output),
            "multiply_adds": plan.cost,
        }

    def run(self, spec: LayerSpec, call: ComputeCall, plan: Plan) -> dict[str, Any]:
        """The answer's fields, in order.

        Raises:
            OutOfMemory: no room on the device just now.
            DeviceLost: the accelerator failed.

        """
        try:
            with torch.set_grad_enabled(call.grad_output is not None):
                return self._run(spec, call, plan)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("the device has no room for this request just now") from error
        except torch.AcceleratorError as error:
            raise DeviceLost("the accelerator failed during this request") from error

    def _plan(self, spec: LayerSpec, call: Any, shapes: dict[str, Shape]) -> Plan:
        bounds.check_ranks(
            spec,
            shapes,
            channels_last=call.layout == "channels_last",
            batched=call.batched,
        )
        mapped = {port.name for port in spec.inputs if port.mapped}
        canonical = {
            name: inward_shape(shape, call.layout, call.batched) if name in mapped else shape
            for name, shape in shapes.items()
        }
        options = options_of(spec, call)
        bounds.check_extents(options, self.limits["max_extent"])
        return spec.plan(canonical, options)

    @staticmethod
    def _check_dtypes(call: ComputeCall) -> None:
        if call.compute_dtype and not DTYPES[call.dtype].is_float:
            detail = f"compute_dtype: integers are computed as they are; got dtype {call.dtype}"
            raise InvalidRequest.at("compute_dtype", "conflict", detail)

    def _run(self, spec: LayerSpec, call: ComputeCall, plan: Plan) -> dict[str, Any]:
        working = working_dtype(call.dtype, call.compute_dtype)
        leaves, tensors = self._inputs(spec, call, plan, working)
        outputs = spec.run(tensors, plan)
        sent = {
            port.name: outward(outputs[port.name], call.layout, call.batched)
            if port.mapped
            else outputs[port.name]
            for port in spec.outputs
            if port.name in outputs
        }
        output = sent.pop("output")
        answer: dict[str, Any] = {
            "layer": spec.name,
            "dtype": call.dtype,
            "device": str(self.device),
            "output": to_payload(output, call.dtype),
            "output_shape": tuple(output.shape),
        }
        if call.grad_output is not None:
            answer["gradients"] = self._gradients(call, leaves, output)
        for path, tensor in sent.items():
            dtype = call.dtype if tensor.is_floating_point() else "int64"
            _put(answer, path, to_payload(tensor, dtype))
        answer["options"] = vars(plan.options)
        if call.explain:
            answer["explanation"] = self._explanation(spec, call, plan, tensors, outputs)
        return answer

    def _inputs(
        self, spec: LayerSpec, call: ComputeCall, plan: Plan, working: str
    ) -> tuple[dict[str, torch.Tensor], Tensors]:
        """The tensors to differentiate by, as sent, and all inputs in the layers' layout."""
        dtype: torch.dtype = getattr(torch, working)
        leaves: dict[str, torch.Tensor] = {}
        tensors: dict[str, torch.Tensor] = {}
        for port in spec.inputs:
            payload: TensorPayload | None = getattr(call, port.name)
            if payload is not None:
                tensor = to_torch(payload, self.device, dtype)
            elif port.fill is not None:
                shape = plan.inputs[port.name]
                tensor = torch.full(shape, port.fill, dtype=dtype, device=self.device)
            else:
                continue
            if port.differentiable and call.grad_output is not None:
                leaves[port.name] = tensor.requires_grad_()
            tensors[port.name] = (
                inward(tensor, call.layout, call.batched) if port.mapped else tensor
            )
        return leaves, tensors

    def _gradients(
        self,
        call: ComputeCall,
        leaves: dict[str, torch.Tensor],
        output: torch.Tensor,
    ) -> dict[str, TensorPayload]:
        if isinstance(call.grad_output, TensorPayload):
            grad = to_torch(call.grad_output, self.device, output.dtype)
        else:
            grad = torch.ones_like(output)
        gradients = torch.autograd.grad(output, tuple(leaves.values()), grad)
        return {
            name: to_payload(gradient, call.dtype)
            for name, gradient in zip(leaves, gradients, strict=True)
        }

    def _explanation(
        self, spec: LayerSpec, call: ComputeCall, plan: Plan, tensors: Tensors, outputs: Tensors
    ) -> dict[str, Any]:
        host = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        notes = spec.explain(host, outputs, plan)
        windows = notes.windows
        if windows is not None:
            windows = tuple(
                window.model_copy(update={"output": _sent_index(window.output, plan, call)})
                for window in windows
            )
        advice = (*notes.advice, *self._precision_advice(spec, call, plan, host, outputs))
        return Explanation(
            axes=tuple(axis.card() for axis in plan.axes),
            windows=windows,
            windows_truncated=notes.windows_truncated,
            advice=advice,
        ).model_dump(exclude_none=True)

    @staticmethod
    def _precision_advice(
        spec: LayerSpec, call: ComputeCall, plan: Plan, host: Tensors, outputs: Tensors
    ) -> tuple[Advice, ...]:
        """Whether the answer is further from float64's than its dtype explains."""
        if call.dtype not in RELATIVE_TOLERANCE:
            return ()
        with torch.no_grad():
            exact = spec.run({name: t.double() for name, t in host.items()}, plan)["output"]
        tolerance = RELATIVE_TOLERANCE[call.dtype]
        answered = outputs["output"].detach().cpu().to(getattr(torch, call.dtype)).double()
        if torch.allclose(answered, exact, rtol=tolerance, atol=tolerance, equal_nan=True):
            return ()
        return (
            Advice(
                code="precision-loss",
                message=f"In {call.dtype} the output is further from float64's than rounding.",
                suggestion='Send `compute_dtype: "float64"`, or centre and scale the input.',
            ),
        )


def _put(answer: dict[str, Any], path: str, value: object) -> None:
    parent, _, name = path.rpartition(".")
    (answer.setdefault(parent, {}) if parent else answer)[name] = value


def _sent_index(index: Shape, plan: Plan, call: ComputeCall) -> Shape:
    """The index of an output element in the layout that was asked for."""
    rank = len(plan.outputs["output"])
    return outward_shape(index[:rank], call.layout, call.batched)
