"""Each convention's defaults, held against the framework they are named after.

Nothing here sets an option that a user of that framework would not set. The frameworks are no
dependencies of the project: a module is skipped where its framework is not installed.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

LENGTHS = (7, 8, 6)
"""Lengths of the spatial axes: odd, even, and a multiple of the kernels used."""


def sample(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Seeded normal numbers. A small scale makes the variance comparable to every epsilon."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(*shape: int) -> dict[str, torch.Tensor]:
    """A layer's weight and bias, by their names in a request."""
    return {"weight": sample(*shape, seed=1) + 2, "bias": sample(*shape, seed=2)}


def statistics(channels: int, scale: float) -> dict[str, torch.Tensor]:
    """Running statistics of data of this scale, by their names in a request."""
    return {
        "running_mean": sample(channels, seed=3, scale=scale),
        "running_var": (sample(channels, seed=4).abs() + 0.5) * scale**2,
    }


def close(actual: Any, expected: torch.Tensor) -> None:
    """Equal but for float32 rounding, measured against the largest element."""
    atol = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=atol)


def by_windows(
    x: torch.Tensor,
    kernel: int,
    stride: int,
    before: Sequence[int],
    outputs: Sequence[int],
    reduce: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """`(N, C, *spatial) -> (N, C, *outputs)`, one window at a time.

    `reduce(elements)` sees the elements of a window that are no padding: `(N, C, elements)`.
    """
    corners = itertools.product(
        *([i * stride - pad for i in range(n)] for pad, n in zip(before, outputs, strict=True))
    )
    reduced = []
    for corner in corners:
        window = x
        for axis, at in enumerate(corner, start=2):
            window = window.narrow(
                axis, start := max(0, at), min(at + kernel, x.shape[axis]) - start
            )
        reduced.append(reduce(window.flatten(2)))
    return torch.stack(reduced, -1).view(*x.shape[:2], *outputs)
