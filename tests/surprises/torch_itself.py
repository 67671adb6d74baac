"""What the tests of torch itself share."""

from collections.abc import Callable

import pytest
import torch

from tests.surprises.checks import check_equal

SURPRISED = pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="the rows tell of torch 2.13"
)


def gives(actual: torch.Tensor, expected: object, within: float = 0.0) -> None:
    """Torch's numbers are these, of any shape."""
    check_equal(actual.detach().flatten(), torch.as_tensor(expected).flatten(), within)


def gradient(
    layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, grad: torch.Tensor | None = None
) -> torch.Tensor:
    """The gradient at `x` for an incoming gradient, or for ones."""
    leaf = x.clone().requires_grad_()
    output = layer(leaf)
    output.backward(torch.ones_like(output) if grad is None else grad)
    assert leaf.grad is not None
    return leaf.grad
