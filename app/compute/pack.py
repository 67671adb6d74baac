"""Converts a layer's results to payloads by dotted name, in the requested layout and dtype."""

from collections.abc import Collection, Mapping

import torch

from app.compute._names import with_port
from app.compute._tensors import outward, to_host, to_payload
from app.layers import Plan, Port
from app.schemas.calls import ComputeCall
from app.schemas.tensors import TensorPayload


def laid_out(
    ports: tuple[Port, ...], tensors: Mapping[str, torch.Tensor], plan: Plan, call: ComputeCall
) -> dict[str, torch.Tensor]:
    """Views of the tensors in the layout in which they are sent."""
    if call.batched and plan.options.layout == "channels_first":
        return dict(tensors)
    return {
        name: outward(tensor, plan.options.layout, call.batched) if port.mapped else tensor
        for (name, tensor), port in with_port(ports, tensors)
    }


def packed(
    tensors: Mapping[str, torch.Tensor], dtype: str, outputs: Collection[str]
) -> dict[str, TensorPayload]:
    """The results in the request's dtype; indices and counts, which are not `outputs`, as int64."""
    return {
        name: to_payload(
            tensor, dtype if name in outputs or tensor.is_floating_point() else "int64"
        )
        for name, tensor in to_host(tensors).items()
    }
