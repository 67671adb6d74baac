"""Payloads <-> torch tensors, and the layout as sent <-> the layers' canonical layout."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from app.schemas.options import Layout
from app.schemas.tensors import DTYPES, Shape, TensorPayload

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}


ALIGNMENT_BYTES = 64
"""The alignment of memory that torch allocates."""


def to_torch(payload: TensorPayload, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Convert a payload to a contiguous tensor of `dtype` on the device.

    On the CPU, the tensor shares the payload's memory if the dtype is the same. The copy to an
    accelerator goes through pinned memory and is asynchronous.
    """
    own = TORCH_DTYPES[payload.dtype]
    if 0 in payload.shape:
        return torch.empty(payload.shape, dtype=dtype, device=device)
    array = np.frombuffer(payload.data, DTYPES[payload.dtype].storage).reshape(payload.shape)
    tensor = torch.from_numpy(array)
    if tensor.dtype is not own:
        tensor = tensor.view(own)  # numpy has no bfloat16
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    if dtype is own and device.type == "cpu":
        return tensor
    return tensor.to(device, dtype, non_blocking=True)


def to_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors to the host, asynchronously on the current stream, with a single synchronize."""
    found = {
        name: tensor.detach() if tensor.requires_grad else tensor
        for name, tensor in tensors.items()
    }
    if not any(tensor.is_cuda for tensor in found.values()):
        return found
    host = {}
    for name, tensor in found.items():
        place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host[name] = place.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return host


def to_payload(tensor: torch.Tensor, dtype: str) -> TensorPayload:
    """Convert a tensor on the host to a payload, rounded to `dtype`."""
    wanted = TORCH_DTYPES[dtype]
    if tensor.dtype is not wanted:
        tensor = tensor.to(wanted)
    if dtype == "bfloat16":
        tensor = tensor.view(torch.uint16)
    array: Any = tensor.numpy()
    return TensorPayload(dtype, array.shape, memoryview(array.ravel()))


def working_dtype(dtype: str, compute_dtype: str | None) -> str:
    """The dtype to compute in: float32 for half types, unless the request sets `compute_dtype`."""
    return compute_dtype or ("float32" if DTYPES[dtype].is_half else dtype)


def inward_shape(shape: Shape, layout: Layout, batched: bool) -> Shape:
    """Convert a shape as sent to (N, C, *spatial)."""
    shape = shape if batched else (1, *shape)
    if layout == "channels_last" and len(shape) > 2:
        return (shape[0], shape[-1], *shape[1:-1])
    return shape


def outward_shape(shape: Shape, layout: Layout, batched: bool) -> Shape:
    """Convert (N, C, *spatial) to a shape as sent."""
    if layout == "channels_last" and len(shape) > 2:
        shape = (shape[0], *shape[2:], shape[1])
    return shape if batched else shape[1:]


def inward(tensor: torch.Tensor, layout: Layout, batched: bool) -> torch.Tensor:
    """View a tensor as sent as (N, C, *spatial)."""
    tensor = tensor if batched else tensor.unsqueeze(0)
    return tensor.movedim(-1, 1) if layout == "channels_last" and tensor.dim() > 2 else tensor


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor, copied unless its memory is already aligned as torch's own would be.

    The last bit of a matrix product depends on the alignment of its operands.
    """
    return tensor if tensor.data_ptr() % ALIGNMENT_BYTES == 0 else tensor.clone()


def outward(tensor: torch.Tensor, layout: Layout, batched: bool) -> torch.Tensor:
    """View a (N, C, *spatial) tensor in the layout it was sent in."""
    if layout == "channels_last" and tensor.dim() > 2:
        tensor = tensor.movedim(1, -1)
    return tensor if batched else tensor.squeeze(0)
