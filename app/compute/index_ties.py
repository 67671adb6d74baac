"""Indices of maxima that point at another element of the window with the same value."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from app.compute._tensors import inward, outward, to_torch
from app.compute.load import Loader
from app.layers import LayerSpec, Plan, planes
from app.schemas.calls import ComputeCall
from app.schemas.tensors import TensorPayload


def ties(
    spec: LayerSpec,
    call: ComputeCall,
    plan: Plan,
    ours: TensorPayload,
    reference: TensorPayload,
    device: torch.device,
) -> npt.NDArray[np.bool_]:
    """Which of our indices point at an element of the same window that equals the reference's.

    Both payloads have the shape of the answer's `indices`.
    """
    x = Loader(spec, call, plan, device).inputs()["input"].detach()
    layout, options = plan.options.layout, plan.options
    base = getattr(options, "index_base", "plane")
    order = getattr(options, "storage_order", "row")
    spatial = x.shape[2:]
    flat = x.flatten(2)

    def located(payload: TensorPayload) -> torch.Tensor:
        sent = inward(to_torch(payload, device, torch.int64), layout, call.batched)
        return planes(sent.contiguous(), spatial, base, order)

    def value(where: torch.Tensor) -> torch.Tensor:
        return flat.gather(2, where.clamp(0, flat.shape[2] - 1).flatten(2)).view(where.shape)

    where, right = located(ours), located(reference)
    a, b = value(where), value(right)
    equal = (a == b) | ((a != a) & (b != b))  # NaN, also of integers
    equal &= (where >= 0) & (where < flat.shape[2])
    rest = where
    for dim in reversed(range(len(spatial))):
        position = rest.remainder(spatial[dim])
        rest = rest.div(spatial[dim], rounding_mode="floor")
        equal &= _inside(position, plan.axes[dim], dim + 2)
    found: Any = outward(equal, layout, call.batched).cpu().numpy()
    return np.asarray(found, dtype=np.bool_)


def _inside(position: torch.Tensor, axis: Any, dim: int) -> torch.Tensor:
    """Whether each position is one of the taps of its window along one axis."""
    taps = [axis.taps(index) for index in range(position.shape[dim])]

    def along(numbers: list[int]) -> torch.Tensor:
        shape = [1] * position.dim()
        shape[dim] = len(numbers)
        return torch.tensor(numbers, device=position.device).view(shape)

    start, step = along([t.start for t in taps]), along([t.step for t in taps])
    stop = along([t.stop for t in taps])
    return (position >= start) & (position < stop) & ((position - start).remainder(step) == 0)
