"""The engine: a layer's spec and a validated request in, an answer of payloads out."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from app.compute import bounds
from app.compute._names import put, results, sent_tensors, with_port
from app.compute._tensors import (
    TORCH_DTYPES,
    aligned,
    inward,
    inward_shape,
    outward,
    outward_shape,
    to_host,
    to_payload,
    to_torch,
    working_dtype,
)
from app.compute.device import choose_device, device_name, one_thread
from app.errors import DeviceLost, InvalidRequest, OutOfMemory
from app.layers import LayerSpec, Plan, Port, Tensors, options_of
from app.schemas.answers import Advice, Explanation
from app.schemas.calls import Call, ComputeCall
from app.schemas.options import CONVENTIONS
from app.schemas.tensors import Shape, Shapes, TensorPayload

MAX_PLANS = 1024
COMPARED_AT_ONCE = 1 << 18
RELATIVE_TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-4}


class Engine:
    """Plans and runs layers on one device. `run` belongs on one thread of a process."""

    def __init__(self, device: str, limits: Mapping[str, int]) -> None:
        self.device = choose_device(device)
        self.device_name = device_name(self.device)
        self.limits = dict(limits)
        self._plans: dict[tuple[object, ...], Plan] = {}

    @property
    def device_memory_bytes(self) -> int:
        """What tensors take on an accelerator; 0 on a CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def warm_up(self) -> None:
        """Pay on this thread for what torch sets up at its first gradient, about 0.2 s."""
        x = torch.ones(1, device=self.device, requires_grad=True)
        torch.autograd.grad(x * 2, x, torch.ones_like(x))

    def plan(self, spec: LayerSpec, call: ComputeCall) -> Plan:
        """Check a request and know its result's shape and cost; no tensor is touched.

        Requests that differ in their numbers alone share a plan.

        Raises:
            InvalidRequest: shapes or options that do not fit, or over a limit.

        """
        fields = call.__dict__.values()
        key = (spec, frozenset(call.model_fields_set), *map(_without_numbers, fields))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._checked_plan(spec, call)
            if len(self._plans) == MAX_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def shape(self, spec: LayerSpec, call: Call) -> dict[str, Any]:
        """The output shape and how it comes about, whatever the sizes.

        Raises:
            InvalidRequest: shapes or options that do not fit.

        """
        try:
            options = options_of(spec, call)
            plan = self._shape_plan(spec, call, options)
        except InvalidRequest as error:
            error.errors = tuple(
                replace(found, pointer=_shape_pointer(found.pointer)) for found in error.errors
            )
            raise
        conventions = {}
        for convention in CONVENTIONS:
            try:
                there = self._shape_plan(spec, call, options_of(spec, call, convention))
                conventions[convention] = _output_shapes(spec, call, there)
            except InvalidRequest:
                conventions[convention] = None
        return {
            "output_shapes" if spec.many else "output_shape": _output_shapes(spec, call, plan),
            "axes": [axis.card().model_dump(exclude_none=True) for axis in plan.axes],
            "conventions": conventions,
            "output_elements": sum(math.prod(plan.outputs[n]) for n in results(spec, plan.outputs)),
            "multiply_adds": plan.cost,
        }

    def run(self, spec: LayerSpec, call: ComputeCall, plan: Plan) -> dict[str, Any]:
        """The answer's fields, in order.

        Raises:
            InvalidRequest: numbers that a layer cannot take, such as an index out of range.
            OutOfMemory: no room on the device just now.
            DeviceLost: the accelerator failed.

        """
        try:
            with torch.set_grad_enabled(getattr(call, spec.gradient) is not None):
                return self._run(spec, call, plan)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("the device has no room for this request just now") from error
        except torch.AcceleratorError as error:
            raise DeviceLost("the accelerator failed during this request") from error

    def _checked_plan(self, spec: LayerSpec, call: ComputeCall) -> Plan:
        bounds.check_dtypes(call)
        shapes = {name: payload.shape for name, payload in sent_tensors(spec, call).items()}
        bounds.check_strides(shapes)
        options = options_of(spec, call)
        plan = self._plan(spec, options, call.batched, shapes)
        bounds.check_gradient(spec, call, _output_shapes(spec, call, plan))
        full = bounds.without_empty_axes(shapes)
        like = plan if full == shapes else self._plan(spec, options, call.batched, full)
        return bounds.check_plan(spec, plan, like, call, self.limits)

    def _shape_plan(self, spec: LayerSpec, call: Any, options: Any) -> Plan:
        shapes: dict[str, Shape] = (
            {f"inputs.{i}": shape for i, shape in enumerate(call.input_shapes)}
            if spec.many
            else {"input": call.input_shape}
        )
        layout, batched = options.layout, call.batched
        bounds.check_ranks(spec, shapes, layout, batched)
        first = inward_shape(next(iter(shapes.values())), layout, batched)
        for (name, shape), port in with_port(spec.inputs, spec.parameters(first, call)):
            shapes[name] = outward_shape(shape, layout, batched) if port.mapped else shape
        return self._plan(spec, options, batched, shapes)

    def _plan(self, spec: LayerSpec, options: Any, batched: bool, shapes: Shapes) -> Plan:
        bounds.check_ranks(spec, shapes, options.layout, batched)
        bounds.check_extents(options, self.limits["max_extent"])
        canonical = {
            name: inward_shape(shape, options.layout, batched) if port.mapped else shape
            for (name, shape), port in with_port(spec.inputs, shapes)
        }
        return spec.plan(canonical, options)

    def _run(self, spec: LayerSpec, call: ComputeCall, plan: Plan) -> dict[str, Any]:
        leaves, tensors = self._inputs(spec, call, plan)
        outputs = spec.run(tensors, plan)
        first = results(spec, outputs)
        sent = self._outward(spec.outputs, outputs, plan, call)
        if getattr(call, spec.gradient) is not None:
            results_ = tuple(outputs[name] for name in first)
            found = self._gradients(spec, call, plan, leaves, results_)
            gradients = self._outward(spec.inputs, found, plan, call)
            sent |= {f"gradients.{name}": gradient for name, gradient in gradients.items()}
        shapes = [tuple(sent[name].shape) for name in first]
        host = to_host(sent)
        answer: dict[str, Any] = {
            "layer": spec.name,
            "dtype": call.dtype,
            "device": str(self.device),
        }
        for name in first:
            put(answer, name, to_payload(host.pop(name), call.dtype))
        answer |= {"output_shapes": shapes} if spec.many else {"output_shape": shapes[0]}
        for name, tensor in host.items():
            dtype = call.dtype if tensor.is_floating_point() else "int64"
            put(answer, name, to_payload(tensor, dtype))
        answer["options"] = vars(plan.options)
        if call.explain:
            answer["explanation"] = self._explanation(spec, call, plan, tensors, outputs)
        return answer

    def _inputs(
        self, spec: LayerSpec, call: ComputeCall, plan: Plan
    ) -> tuple[dict[str, torch.Tensor], Tensors]:
        """The tensors to differentiate by, and all inputs; in the layers' layout, contiguous."""
        dtype = TORCH_DTYPES[working_dtype(call.dtype, call.compute_dtype)]
        differentiate = getattr(call, spec.gradient) is not None
        payloads = sent_tensors(spec, call)
        leaves: dict[str, torch.Tensor] = {}
        tensors: dict[str, torch.Tensor] = {}
        for (name, shape), port in with_port(spec.inputs, plan.inputs):
            payload = payloads.get(name)
            if payload is not None:
                own = TORCH_DTYPES[port.dtype] if port.dtype else dtype
                tensor = self._load(spec, payload, own, plan, call, mapped=port.mapped)
            elif port.fill is not None:
                tensor = torch.full(shape, port.fill, dtype=dtype, device=self.device)
            else:
                continue
            if port.differentiable and differentiate:
                leaves[name] = tensor.requires_grad_()
            tensors[name] = tensor
        return leaves, tensors

    def _load(
        self,
        spec: LayerSpec,
        payload: TensorPayload,
        dtype: torch.dtype,
        plan: Plan,
        call: ComputeCall,
        *,
        mapped: bool,
    ) -> torch.Tensor:
        """A payload as the layer takes it: contiguous, unless the layer is right in any order.

        Torch has other kernels for other orders, and some of them are wrong: rows 39 to 42 of
        `docs/surprises.md`.
        """
        tensor = to_torch(payload, self.device, dtype)
        if mapped:
            tensor = inward(tensor, plan.options.layout, call.batched)
            if not (spec.any_order and dtype.is_floating_point):
                tensor = tensor.contiguous()
        return aligned(tensor) if spec.matrix_product else tensor

    @staticmethod
    def _outward(
        ports: tuple[Port, ...],
        tensors: Mapping[str, torch.Tensor],
        plan: Plan,
        call: ComputeCall,
    ) -> dict[str, torch.Tensor]:
        """Tensors in the layout that they are sent in, views."""
        return {
            name: outward(tensor, plan.options.layout, call.batched) if port.mapped else tensor
            for (name, tensor), port in with_port(ports, tensors)
        }

    def _gradients(
        self,
        spec: LayerSpec,
        call: ComputeCall,
        plan: Plan,
        leaves: dict[str, torch.Tensor],
        outputs: tuple[torch.Tensor, ...],
    ) -> dict[str, torch.Tensor]:
        given: Any = getattr(call, spec.gradient)
        if given == "ones":
            grads = tuple(map(torch.ones_like, outputs))
        else:
            mapped = spec.outputs[0].mapped
            grads = tuple(
                self._load(spec, payload, output.dtype, plan, call, mapped=mapped)
                for payload, output in zip(given if spec.many else (given,), outputs, strict=True)
            )
        found = torch.autograd.grad(outputs, tuple(leaves.values()), grads)
        return dict(zip(leaves, found, strict=True))

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
        doubles = {n: t.double() if t.is_floating_point() else t for n, t in host.items()}
        with torch.no_grad():
            exact = spec.run(doubles, plan)
        for name in results(spec, outputs):
            if not _close(outputs[name].detach().cpu(), exact[name], call.dtype):
                return (
                    Advice(
                        code="precision-loss",
                        message=f"In {call.dtype} the output is further from float64's than "
                        "rounding.",
                        suggestion='Send `compute_dtype: "float64"`, or centre the input first.',
                    ),
                )
        return ()


def _close(output: torch.Tensor, exact: torch.Tensor, dtype: str) -> bool:
    """Whether the output is float64's but for its dtype's rounding; piece by piece, to save the
    memory of whole copies.
    """
    tolerance = RELATIVE_TOLERANCE[dtype]
    pieces = map(_pieces, (output, exact))
    with one_thread():
        return all(
            torch.allclose(
                ours.to(TORCH_DTYPES[dtype]).double(),
                theirs,
                rtol=tolerance,
                atol=tolerance,
                equal_nan=True,
            )
            for ours, theirs in zip(*pieces, strict=True)
        )


def _pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of parts of bounded size, cut along the longest axis."""
    tensor = torch.atleast_1d(tensor)
    axis = max(range(tensor.dim()), key=tensor.shape.__getitem__)
    row = math.prod(tensor.shape[:axis] + tensor.shape[axis + 1 :])
    pieces: tuple[torch.Tensor, ...] = tensor.split(max(1, COMPARED_AT_ONCE // max(1, row)), axis)
    return pieces


def _without_numbers(value: object) -> object:
    """A request's field as far as a plan depends on it: of a tensor, its shape."""
    if isinstance(value, TensorPayload):
        return value.shape
    if isinstance(value, tuple) and value and isinstance(value[0], TensorPayload):
        return tuple(payload.shape for payload in value)
    return value


def _output_shapes(spec: LayerSpec, call: Call, plan: Plan) -> Any:
    """The shape of the output as sent; of a list of outputs, a list of them."""
    shapes = [
        outward_shape(plan.outputs[name], plan.options.layout, call.batched)
        if spec.outputs[0].mapped
        else plan.outputs[name]
        for name in results(spec, plan.outputs)
    ]
    return shapes if spec.many else shapes[0]


def _shape_pointer(pointer: str) -> str:
    """Where a shape request holds what a compute request holds at the pointer."""
    if pointer == "#/input":
        return "#/input_shape"
    return pointer.replace("#/inputs", "#/input_shapes", 1)


def _sent_index(index: Shape, plan: Plan, call: ComputeCall) -> Shape:
    """The index of an output element in the layout that was asked for."""
    rank = len(plan.outputs["output"])
    return outward_shape(index[:rank], plan.options.layout, call.batched)
