"""A layer's results -> payloads by dotted name, in the layout and dtype that were asked for."""

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
    """The tensors in the layout that they are sent in: views."""
    return {
        name: outward(tensor, plan.options.layout, call.batched) if port.mapped else tensor
        for (name, tensor), port in with_port(ports, tensors)
    }


def packed(tensors: Mapping[str, torch.Tensor], dtype: str) -> dict[str, TensorPayload]:
    """Results in the request's dtype; of a float request, indices and counts are int64."""
    integers = "int64" if DTYPES[dtype].is_float else dtype
    return {
        name: to_payload(tensor, dtype if tensor.is_floating_point() else integers)
        for name, tensor in to_host(tensors).items()
    }
