"""Gradients of a layer's outputs by its inputs."""

import torch

from app.layers import Tensors


def input_gradients(
    inputs: Tensors,
    outputs: tuple[torch.Tensor, ...],
    output_gradients: tuple[torch.Tensor, ...],
) -> dict[str, torch.Tensor]:
    """For each input that is a leaf of the graph, by its name: the gradient, of its shape."""
    leaves = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    found = torch.autograd.grad(outputs, tuple(leaves.values()), output_gradients)
    return dict(zip(leaves, found, strict=True))
