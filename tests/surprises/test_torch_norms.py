"""Torch's norms and convolutions do what the rows say of them. Named by row."""

import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.surprises.checks import EPS, FLOAT32_3_3, INF, NAN
from tests.surprises.torch_itself import SURPRISED, gives, gradient

pytestmark = [SURPRISED, pytest.mark.usefixtures("two_threads")]

FEW = torch.tensor([[1.0, 3], [5, 7]])
OFFSET = torch.tensor([0.0, 1, 2, 3]) + 1e7
ACROSS: Any = {"memory_format": torch.channels_last}
PLACES = 8


def trained(x: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output, and what became of the running mean 0 and variance 1."""
    mean, var = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    return F.batch_norm(x, mean, var, training=True, **options), mean, var


def test_row_24() -> None:
    one = 1 / (1 + EPS) ** 0.5
    gives(nn.BatchNorm1d(2)(FEW), [-1, -1, 1, 1], within=1e-5)
    gives(nn.InstanceNorm1d(2)(FEW), [-one, one] * 2, within=1e-6)
    gives(F.max_pool1d(FEW, 2), [3, 7])
    gives(F.group_norm(FEW.view(2, 1, 2), 1), [-one, one] * 2, within=1e-6)


def test_row_25() -> None:
    for momentum, mean in ((2, 5), (-1, -2.5), (NAN, NAN)):
        gives(trained(torch.tensor([[1.0], [4]]), momentum=momentum)[1], [mean])


def test_row_26() -> None:
    for bad, bad_mean in ((NAN, NAN), (INF, INF)):
        output, mean, var = trained(torch.tensor([[1.0, bad], [3, 2]]))
        gives(output[:, 1], [NAN, NAN])
        gives(mean, [0.2, bad_mean], within=1e-6)
        gives(var, [1.1, NAN], within=1e-6)


def test_row_27() -> None:
    gives(F.batch_norm(torch.ones(2, 1), torch.zeros(1), torch.tensor([-1.0])), [NAN, NAN])


def test_row_28() -> None:
    layer = nn.BatchNorm1d(2)
    layer(torch.empty(0, 2))
    kept = [getattr(layer, name) for name in ("running_mean", "running_var", "num_batches_tracked")]
    for buffer, numbers in zip(kept, ([0, 0], [1, 1], [1]), strict=True):
        gives(buffer, numbers)


def test_row_29() -> None:
    mean, var = torch.zeros(1), torch.ones(1)
    output = torch.batch_norm(torch.tensor([[3.0]]), None, None, mean, var, True, 0.1, EPS, False)
    gives(output, [2**-15])
    gives(var, [NAN])


def test_row_30() -> None:
    with torch.no_grad():
        _, mean, var = trained(torch.tensor([[1.0], [3]]))
    gives(mean, [0.2], within=1e-6)
    gives(var, [1.1], within=1e-6)


def test_row_31() -> None:
    right = torch.tensor([-1.342, -0.447, 0.447, 1.342])
    for output in (
        F.batch_norm(OFFSET.view(4, 1), None, None, training=True),
        F.instance_norm(OFFSET.view(1, 1, 4)),
        F.group_norm(OFFSET.view(1, 1, 4), 1),
        F.layer_norm(OFFSET, (4,)),
    ):
        assert (output.flatten() - right).abs().max() > 0.4


def test_row_32() -> None:
    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, training=True)

    x = torch.full((4, 1), 5.0)
    gives(norm(x), [0] * 4, within=1e-4)
    found = gradient(norm, x, torch.tensor([[1.0], [0], [0], [0]]))
    gives(found, [237.17, -79.06, -79.06, -79.06], within=0.01)


@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_row_33(eps: float) -> None:
    x = torch.full((1, 1, 2), 3.0)
    gives(F.group_norm(x, 1, eps=eps), [NAN, NAN])
    gives(F.layer_norm(x, (2,), eps=eps), [NAN, NAN])
    with pytest.raises(ValueError, match="eps must be positive"):
        F.batch_norm(x, None, None, training=True, eps=eps)


def test_row_34() -> None:
    output = F.group_norm(torch.tensor([[1.0, 2, 3], [4, 5, 6]]), 3, torch.ones(3))
    assert output.abs().max() > 3e-5


def test_row_35() -> None:
    with pytest.warns(UserWarning, match="does not match num_features"):
        nn.InstanceNorm1d(7, affine=False)(torch.ones(1, 1, 2))


def test_row_36() -> None:
    with pytest.warns(UserWarning, match="Mismatch dtype"):
        F.rms_norm(torch.tensor([[2.0, 3]]).bfloat16(), (2,), torch.tensor([1.0, 5]))


def test_row_39() -> None:
    x = torch.tensor([[1, 3, 4], [2, 5, 9]], dtype=torch.float64).view(1, 2, 1, 3)
    grad = torch.tensor([[1, 2, 0], [0, 1, 3]], dtype=torch.float64).view(1, 2, 1, 3)
    right = [-0.286349, 0.859051, -0.572702]
    first = gradient(F.instance_norm, x, grad)[0, 0]
    gives(first, right, within=1e-6)
    last = gradient(F.instance_norm, x, grad.contiguous(**ACROSS))[0, 0]
    gives(last, [-number for number in right], within=1e-6)
    bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    output = F.instance_norm(x, bias=bias)
    output.backward((grad + torch.tensor([0, 0, 7])).contiguous(**ACROSS))
    assert bias.grad is not None
    gives(bias.grad, [3.0, 18.0])  # right: 10 and 11


def test_row_40() -> None:
    x = torch.tensor([10000.0, 10001, 10002, 10003]).view(1, 2, 1, 2)
    gives(F.group_norm(x, 1), [-1.342, -0.447, 0.447, 1.342], within=1e-3)
    gives(F.group_norm(x.contiguous(**ACROSS), 1), [-474, -158, 158, 474], within=1)


def test_row_42() -> None:
    for side, error in ((64, 0.157), (224, 0.904)):
        x = torch.full((8, 3, side, side), 3.3)
        assert trained(x)[0].abs().max() < 1e-4
        gives(trained(x.contiguous(**ACROSS))[0].abs().max(), [error], within=1e-3)


def test_row_44() -> None:
    def rms_norm(x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (2,))

    wrong = gradient(rms_norm, torch.tensor([[1e15, 2e15]]))
    gives(wrong, [6.32e-16, 6.32e-16], within=1e-18)
    right = gradient(rms_norm, torch.tensor([[1e15, 2e15]], dtype=torch.float64))
    gives(right, [2.53e-16, -1.26e-16], within=1e-18)
    gives(rms_norm(torch.tensor([[1e20, 2e20]])), [0, 0])


def test_row_45() -> None:
    def error(output: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        output.backward(torch.full_like(output, 3.3))
        assert bias.grad is not None
        return bias.grad.double() / (FLOAT32_3_3 * output.numel()) - 1

    bias = torch.zeros(1, requires_grad=True)
    output = F.conv2d(torch.ones(4, 1, 256, 256), torch.zeros(1, 1, 1, 1), bias)
    gives(error(output, bias), [0.001085], within=1e-5)
    bias = torch.zeros(1, requires_grad=True)
    x = torch.arange(1e6).view(1, 1, -1)
    output = F.batch_norm(x, None, None, bias=bias, training=True)
    gives(error(output, bias), [0.000954], within=1e-5)


def test_row_48() -> None:
    rng = random.Random(48)
    x, weight, grad = (
        torch.tensor([rng.gauss(0, 1) for _ in range(math.prod(shape))]).double().view(shape)
        for shape in ((1, 4, 20), (4, 2, 3), (1, 4, 18))
    )
    room = torch.empty(PLACES + grad.numel(), dtype=torch.float64)
    answers = set()
    for place in range(PLACES):
        placed = room[place : place + grad.numel()].copy_(grad.flatten()).view_as(grad)
        found = gradient(lambda leaf: F.conv1d(x, leaf, groups=2), weight, placed)
        answers.add(tuple(found.flatten().tolist()))
    assert len(answers) == 2
