"""Gradients of a layer's outputs with respect to its inputs."""

import torch

from app.layers import Tensors


def input_gradients(
    inputs: Tensors,
    outputs: tuple[torch.Tensor, ...],
    output_gradients: tuple[torch.Tensor, ...],
) -> dict[str, torch.Tensor]:
    """The gradient for each input that is a leaf of the graph, by name, in the input's shape."""
    leaves = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    found = torch.autograd.grad(outputs, tuple(leaves.values()), output_gradients)
    return dict(zip(leaves, found, strict=True))
