"""Gradients of convolutions over many positions, which are summed in pieces, against torch's in
float64.
"""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from app.compute import Engine
from app.layers import _conv_sums
from tests.conftest import compute

LENGTHS = {1: (200,), 2: (14, 15), 3: (6, 7, 8)}
SETTINGS = tuple(itertools.product((1, 2), (1, 2), (1, 2), (0, 1, "uneven")))


@pytest.mark.parametrize("by_sample", [True, False])
@pytest.mark.parametrize("dims", LENGTHS)
def test_gradients_in_pieces_are_those_in_float64(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, dims: int, by_sample: bool
) -> None:
    """Both ways of summing: products of each sample's matrices, and convolutions of pieces."""
    if not by_sample:
        monkeypatch.setattr(_conv_sums, "SMALL_PRODUCT", 0)
    torch.manual_seed(0)
    for groups, stride, dilation, padding in SETTINGS:
        x, bias = torch.randn(32, 4, *LENGTHS[dims]), torch.randn(6)
        weight = torch.randn(6, 4 // groups, *[3, 2, 2][:dims])
        options: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups}
        leaves = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
        padded = F.pad(leaves[0], [1, 0] * dims) if padding == "uneven" else leaves[0]
        function: Any = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
        plain = 0 if padding == "uneven" else padding
        output = function(padded, *leaves[1:], padding=plain, **options)
        grad = torch.randn(output.shape)
        expected = torch.autograd.grad(output, leaves, grad.double())
        options["padding"] = [[1, 0]] if padding == "uneven" else padding
        body = {"input": x, "weight": weight, "bias": bias, "grad_output": grad, **options}
        found = compute(engine, f"conv{dims}d", body)["gradients"]
        for name, exact in zip(("input", "weight", "bias"), expected, strict=True):
            off = (found[name].double() - exact).abs().max() / exact.abs().max()
            assert off < 3e-6, f"{name}, {options}: {off}"
