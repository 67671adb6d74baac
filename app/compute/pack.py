"""Converts a layer's results to payloads by dotted name, in the requested layout and dtype."""

from collections.abc import Mapping

import torch

from app.compute._names import with_port
from app.compute._tensors import outward, to_host, to_payload
from app.layers import Plan, Port
from app.schemas.calls import ComputeCall
from app.schemas.tensors import DTYPES, TensorPayload


def laid_out(
    ports: tuple[Port, ...], tensors: Mapping[str, torch.Tensor], plan: Plan, call: ComputeCall
) -> dict[str, torch.Tensor]:
    """Views of the tensors in the layout in which they are sent."""
    return {
        name: outward(tensor, plan.options.layout, call.batched) if port.mapped else tensor
        for (name, tensor), port in with_port(ports, tensors)
    }


def packed(tensors: Mapping[str, torch.Tensor], dtype: str) -> dict[str, TensorPayload]:
    """Convert results to the request's dtype; in float requests, indices and counts are int64."""
    integers = "int64" if DTYPES[dtype].is_float else dtype
    return {
        name: to_payload(tensor, dtype if tensor.is_floating_point() else integers)
        for name, tensor in to_host(tensors).items()
    }
