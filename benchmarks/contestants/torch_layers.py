"""The layers as a user of torch writes them: nested lists in, nested lists out."""

from typing import Any

import torch
import torch.nn.functional as F


def max_pool2d(nested: Any) -> dict[str, Any]:
    x = torch.tensor(nested, dtype=torch.float32, requires_grad=True)
    output = F.max_pool2d(x, 2)
    output.sum().backward()
    assert x.grad is not None
    return {"output": output.tolist(), "grad_input": x.grad.tolist()}


def batch_norm2d(nested: Any) -> dict[str, Any]:
    x = torch.tensor(nested, dtype=torch.float32, requires_grad=True)
    channels = x.shape[1]
    weight = torch.ones(channels, requires_grad=True)
    bias = torch.zeros(channels, requires_grad=True)
    mean, var = torch.zeros(channels), torch.ones(channels)
    output = F.batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5)
    output.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert bias.grad is not None
    return {
        "output": output.tolist(),
        "grad_input": x.grad.tolist(),
        "grad_weight": weight.grad.tolist(),
        "grad_bias": bias.grad.tolist(),
        "running_mean": mean.tolist(),
        "running_var": var.tolist(),
    }


LAYERS = {"max_pool2d": max_pool2d, "batch_norm2d": batch_norm2d}
