"""Converts a request's payloads to the tensors a layer takes: canonical layout, on the device."""

from dataclasses import dataclass
from typing import Any

import torch

from app.compute._names import sent_tensors, with_port
from app.compute._tensors import TORCH_DTYPES, aligned, inward, to_torch, working_dtype
from app.layers import LayerSpec, Plan, Tensors
from app.schemas.calls import ComputeCall
from app.schemas.tensors import TensorPayload


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads the tensors of one request onto one device."""

    spec: LayerSpec
    call: ComputeCall
    plan: Plan
    device: torch.device

    def inputs(self, image: torch.Tensor | None = None) -> Tensors:
        """Every input of the plan: those that were sent, and those filled with a default.

        If gradients were requested, differentiable inputs are leaves of the graph. `image`, laid
        out as sent, stands in for the request's `input`.
        """
        dtype = TORCH_DTYPES[working_dtype(self.call.dtype, self.call.compute_dtype)]
        differentiate = getattr(self.call, self.spec.gradient) is not None
        payloads: dict[str, Any] = {**sent_tensors(self.spec, self.call)}
        if image is not None:
            payloads["input"] = image
        tensors: dict[str, torch.Tensor] = {}
        for (name, shape), port in with_port(self.spec.inputs, self.plan.inputs):
            payload = payloads.get(name)
            if payload is not None:
                own = TORCH_DTYPES[port.dtype] if port.dtype else dtype
                tensor = self._tensor(payload, own, mapped=port.mapped)
            elif port.fill is not None:
                fill = port.fill(self.plan.options) if callable(port.fill) else port.fill
                tensor = torch.full(shape, fill, dtype=dtype, device=self.device)
            else:
                continue
            tensors[name] = tensor.requires_grad_(port.differentiable and differentiate)
        return tensors

    def output_gradients(
        self, outputs: tuple[torch.Tensor, ...], image: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """The gradient sent for each output, in the output's dtype; `image`, laid out as sent,
        stands in for the request's `grad_output`.
        """
        given: Any = getattr(self.call, self.spec.gradient) if image is None else image
        if isinstance(given, str):
            return tuple(map(torch.ones_like, outputs))
        mapped = self.spec.outputs[0].mapped
        payloads = given if self.spec.many else (given,)
        return tuple(
            self._tensor(payload, output.dtype, mapped=mapped)
            for payload, output in zip(payloads, outputs, strict=True)
        )

    def _tensor(
        self, sent: TensorPayload | torch.Tensor, dtype: torch.dtype, *, mapped: bool
    ) -> torch.Tensor:
        """Load a tensor, made contiguous unless the layer accepts any memory order.

        Torch uses other kernels for other memory orders, and some of them give wrong results:
        see rows 39 to 42 of `docs/surprises.md`.
        """
        if isinstance(sent, TensorPayload):
            tensor = to_torch(sent, self.device, dtype)
        else:
            tensor = sent.to(dtype)
        if mapped:
            tensor = inward(tensor, self.plan.options.layout, self.call.batched)
            is_any = self.spec.any_order and dtype.is_floating_point
            tensor = tensor if is_any else tensor.contiguous()
        return aligned(tensor) if self.spec.matrix_product else tensor
