"""Whether two tensors are equal up to the rounding of a dtype."""

import math

import torch

from app.compute._tensors import TORCH_DTYPES
from app.compute.device import one_thread

COMPARED_AT_ONCE = 1 << 18
RELATIVE_TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-4}
"""Differences larger than this are not explained by rounding to the dtype."""


def is_close(output: torch.Tensor, exact: torch.Tensor, dtype: str) -> bool:
    """Whether the output equals the float64 result up to the rounding of its dtype.

    Compares piece by piece, to avoid copies of whole tensors.
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
    """Split into views of bounded size along the longest axis."""
    tensor = torch.atleast_1d(tensor)
    axis = max(range(tensor.dim()), key=tensor.shape.__getitem__)
    row = math.prod(tensor.shape[:axis] + tensor.shape[axis + 1 :])
    pieces: tuple[torch.Tensor, ...] = tensor.split(max(1, COMPARED_AT_ONCE // max(1, row)), axis)
    return pieces
