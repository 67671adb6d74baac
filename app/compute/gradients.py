"""Gradients of a layer's outputs with respect to its inputs.

`torch.autograd.grad` does the same, but takes several times as long on small tensors: its Python
code checks shapes, which `bounds` has done, with a library for symbols that takes 30 MiB.
"""

import operator
from typing import Any

import torch
from torch.autograd import Variable

from app.layers import Tensors

ENGINE: Any = Variable._execution_engine


def input_gradients(
    inputs: Tensors,
    outputs: tuple[torch.Tensor, ...],
    output_gradients: tuple[torch.Tensor, ...],
) -> dict[str, torch.Tensor]:
    """The gradient for each input that is a leaf of the graph, by name, in the input's shape.

    The output gradients have the shapes and dtypes of the outputs.
    """
    leaves = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    found = _of_one_node(tuple(leaves.values()), outputs, output_gradients)
    if found is None:
        found = ENGINE.run_backward(
            outputs,
            output_gradients,
            False,  # keep_graph
            False,  # create_graph
            tuple(leaves.values()),
            allow_unreachable=False,
            accumulate_grad=False,
        )
    return dict(zip(leaves, found, strict=True))


def _of_one_node(
    leaves: tuple[torch.Tensor, ...],
    outputs: tuple[torch.Tensor, ...],
    output_gradients: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor, ...] | None:
    """The gradients, if one operation of torch made the only output of all leaves, in their order.

    Calling its node takes half the time of the engine, which would set up a traversal of the graph.
    """
    node: Any = outputs[0].grad_fn
    if len(outputs) > 1 or outputs[0].output_nr or not callable(node):  # Python's nodes are not
        return None
    operands = [getattr(source, "variable", None) for source, _ in node.next_functions]
    if len(operands) != len(leaves) or not all(map(operator.is_, operands, leaves)):
        return None
    with torch.no_grad():
        found = node(*output_gradients)
    found = found if isinstance(found, tuple) else (found,)
    return found if all(map(_fits, found, leaves)) else None


def _fits(gradient: torch.Tensor | None, leaf: torch.Tensor) -> bool:
    return gradient is not None and gradient.shape == leaf.shape and gradient.dtype == leaf.dtype
