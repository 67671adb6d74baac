"""Outputs with another gradient than their own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Rule = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


def scaled(output: torch.Tensor, factor: torch.Tensor | float) -> torch.Tensor:
    """The same output; the gradient that arrives at it is multiplied by `factor`."""
    if not output.requires_grad:
        return output
    return _Scaled.apply(output, factor)  # type: ignore[no-any-return, no-untyped-call]


def with_gradients(
    output: torch.Tensor, inputs: Sequence[torch.Tensor], rule: Rule
) -> torch.Tensor:
    """The same output; `rule` turns its gradient into those of the inputs."""
    if not any(x.requires_grad for x in inputs):
        return output
    return _Ruled.apply(rule, output.detach(), *inputs)  # type: ignore[no-any-return, no-untyped-call]


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, factor: torch.Tensor | float) -> torch.Tensor:
        ctx.factor = factor
        return output.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad * ctx.factor, None


class _Ruled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, output: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        ctx.rule = rule
        return output.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return None, None, *ctx.rule(grad)
