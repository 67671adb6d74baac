"""Torch's pools do what the rows say of them. Named by row; of no row that is dangerous to run."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.surprises.checks import FLOAT32_3_3, INF, NAN
from tests.surprises.torch_itself import SURPRISED, gives, gradient

pytestmark = SURPRISED

PAIR = torch.tensor([[[1.0, 2.0]]])
SQUARE = torch.arange(1.0, 17).view(1, 1, 4, 4)
ACROSS: Any = {"memory_format": torch.channels_last}
ACROSS_3D: Any = {"memory_format": torch.channels_last_3d}


@pytest.mark.parametrize("option", [{"stride": 2**31}, {"dilation": 2**31}])
def test_row_05(option: Any) -> None:
    assert F.max_pool1d(PAIR, 1, **option)[0, 0, 0] == 1
    with pytest.raises(RuntimeError, match="overflow"):
        F.max_pool1d(PAIR, 1, return_indices=True, **option)
    with pytest.raises(RuntimeError, match="overflow"):
        F.max_pool1d(PAIR.clone().requires_grad_(), 1, **option)


def test_row_06() -> None:
    cube = torch.arange(1.0, 9).view(1, 1, 2, 2, 2)
    with pytest.raises(RuntimeError, match="smaller than kernel size"):
        F.avg_pool3d(cube, 3, padding=1)
    gives(F.avg_pool2d(cube[0], 3, padding=1), [10 / 9, 26 / 9], within=1e-6)
    gives(F.max_pool3d(cube, 3, padding=1), [8])


@pytest.mark.parametrize(
    ("n", "kernel", "stride", "padding", "given", "told"),
    [(9, 4, 4, 2, 3, 4), (4, 1, 2, 0, 2, 3), (5, 2, 2, 1, 3, 4)],
)
def test_row_07(n: int, kernel: int, stride: int, padding: int, given: int, told: int) -> None:
    assert math.ceil((n + 2 * padding - kernel) / stride + 1) == told
    output = F.max_pool1d(torch.zeros(1, 1, n), kernel, stride, padding, ceil_mode=True)
    assert output.shape[-1] == given


def test_row_08() -> None:
    gives(F.max_pool1d(torch.tensor([[[1.0, 2, 3, 4]]]), 9, 8, ceil_mode=True), [4])


def test_row_09() -> None:
    gives(F.lp_pool1d(torch.tensor([[[1.0, 2, 5]]]), 1, 2, ceil_mode=True), [3, 10])


def test_row_10() -> None:
    gives(F.lp_pool1d(torch.tensor([[[3.0, -4]]]), 1, 2), [-1])
    gives(F.lp_pool1d(torch.tensor([[[-1.0, -2]]]), 3, 2), [NAN])
    with pytest.raises(ZeroDivisionError):
        F.lp_pool1d(PAIR, 0, 2)
    gives(F.lp_pool1d(PAIR, -1, 2), [2 / 3], within=1e-6)


def test_row_11() -> None:
    x = torch.tensor([[[NAN, 1, NAN, 2]]])
    output, index = F.max_pool1d(x, 4, return_indices=True)
    gives(output, [NAN])
    gives(index, [2])
    gives(gradient(lambda leaf: F.max_pool1d(leaf, 4), x), [0, 0, 1, 0])


def test_row_12() -> None:
    x = torch.tensor([[[-0.0, 0.0, 0.0, -0.0]]])
    output, indices = F.max_pool1d(x, 2, return_indices=True)
    gives(output, [-0.0, 0.0])
    gives(indices, [0, 2])


def test_row_13() -> None:
    x = torch.tensor([[[-INF, -INF]]])
    output, indices = F.max_pool1d(x, 2, 1, 1, return_indices=True)
    gives(output, [-INF] * 3)
    gives(indices, [0, 0, 1])
    gives(gradient(lambda leaf: F.max_pool1d(leaf, 2, 1, 1), x), [2, 1])


def test_row_14() -> None:
    gives(F.avg_pool1d(torch.tensor([[[-1, -2]]]), 2), [-1])
    gives(F.avg_pool1d(torch.tensor([[[2**63 - 1] * 2]]), 2), [-1])


def test_row_15() -> None:
    ones = torch.ones(1, 1, 1, 2)
    gives(F.avg_pool2d(ones, (1, 2), divisor_override=-2), [-1])
    gives(F.avg_pool2d(ones, (1, 2), divisor_override=2**40), [2**-39])
    with pytest.raises(TypeError, match="divisor_override"):
        F.avg_pool1d(PAIR, 2, divisor_override=2)  # type: ignore[call-arg]


def test_row_16() -> None:
    x = torch.ones(1, 1, 8, 8, 16)
    x[..., 0, 0, 0] = 256
    gives(F.adaptive_avg_pool3d(x.bfloat16(), (1, 1, 2)), [0.5, 0.5])
    large = torch.full((1, 1, 2, 2, 4), 60000.0).half()
    gives(F.adaptive_avg_pool3d(large, (1, 1, 2)), [INF, INF])


def test_row_17() -> None:
    assert F.adaptive_avg_pool1d(PAIR, 0).shape == (1, 1, 0)
    for pool in (F.adaptive_avg_pool1d, F.adaptive_max_pool1d):
        output = pool(PAIR.clone().requires_grad_(), 0)
        with pytest.raises(RuntimeError, match="non-zero size"):
            output.backward(torch.ones_like(output))


def test_row_18() -> None:
    empty = torch.empty(1, 1, 0, 2)
    gives(F.adaptive_avg_pool2d(empty, 1), [NAN])
    for pool, size in ((F.adaptive_avg_pool2d, 2), (F.adaptive_max_pool2d, 1)):
        with pytest.raises(RuntimeError, match="non-zero size"):
            pool(empty, size)


def test_row_19() -> None:
    x = torch.tensor([[[[[1.0, 3], [5, 7]]]]])
    assert F.adaptive_avg_pool2d(x, 1).shape == (1, 1, 1, 1, 1)
    with pytest.raises(RuntimeError, match="Expected 3D or 4D"):
        F.adaptive_avg_pool2d(x, 2)


@pytest.mark.usefixtures("one_thread")
def test_row_20() -> None:
    def unpool(x: torch.Tensor) -> torch.Tensor:
        return F.max_unpool1d(x, torch.tensor([[[1, 1]]]), [2])

    gives(unpool(PAIR), [0, 2, 0, 0])
    gives(gradient(unpool, PAIR, torch.tensor([[[10.0, 20, 30, 40]]])), [20, 20])


def test_row_21() -> None:
    indices = torch.tensor([[[[5, 7], [13, 15]]]])
    output = F.max_unpool2d(indices.float(), indices, [2, 2], output_size=(5, 5))
    assert [tuple(place) for place in output[0, 0].nonzero().tolist()] == [
        (1, 0), (1, 2), (2, 3), (3, 0),
    ]  # fmt: skip


def test_row_22() -> None:
    gives(F.fractional_max_pool2d(SQUARE, 0, 2), [-INF] * 4)
    outside = torch.full((1, 1, 2), 1.5)
    gives(F.fractional_max_pool2d(SQUARE, 2, 2, _random_samples=outside), [6, 8, 14, 16])
    both = F.fractional_max_pool2d(SQUARE, 2, output_size=2, output_ratio=0.75)
    assert both.shape == (1, 1, 2, 2)


def test_row_23() -> None:
    for kernel, stride in ((-3, 1), (2, None), (2, ())):
        nn.MaxPool2d(kernel, stride)
    with pytest.raises(RuntimeError, match="pad should be"):
        nn.MaxPool2d(-3)(SQUARE)


def test_row_37() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            F.max_unpool2d(SQUARE, torch.arange(16).view(1, 1, 4, 4), [1, 1])
    finally:
        torch.use_deterministic_algorithms(False)


def test_row_38() -> None:
    padded = F.pad(torch.tensor([[[5.0, 1, 7]]]), (1, 0), value=-INF)
    output, indices = F.max_pool1d(padded, 2, return_indices=True)
    gives(output, [5, 7])
    gives(indices, [1, 3])


def test_row_41() -> None:
    for dtype, lowest in ((torch.uint8, 0), (torch.int8, -128), (torch.float32, -INF)):
        x = torch.tensor([9, lowest, 9, lowest]).to(dtype).view(1, 2, 2, 1, 1)
        gives(F.max_pool3d(x, 1, return_indices=True)[1], [0, 1, 0, 1])
        gives(F.max_pool3d(x.contiguous(**ACROSS_3D), 1, return_indices=True)[1], [0, 0, 0, 0])
    for dtype in (torch.uint8, torch.int8):
        row = torch.zeros(1, 2, 1, 128, dtype=dtype)
        F.max_pool2d(row, 1)
        F.max_pool2d(row[..., :127].contiguous(**ACROSS), 1)
        with pytest.raises(RuntimeError, match="numeric_limits"):
            F.max_pool2d(row.contiguous(**ACROSS), 1)


def test_row_43() -> None:
    for side, error in ((512, 0.00244), (1024, -0.00977)):
        x = torch.full((1, 1, side, 2 * side), 3.3)
        for output in (F.avg_pool2d(x, side), F.adaptive_avg_pool2d(x, (1, 2))):
            gives(output / FLOAT32_3_3 - 1, [error] * 2, within=1e-5)
        gives(F.adaptive_avg_pool2d(x, 1), [FLOAT32_3_3], within=1e-6)


def test_row_46() -> None:
    x = torch.tensor([[[1.0, 2, -3]]])
    found = gradient(lambda leaf: F.lp_pool1d(leaf, 1.5, 2), x)
    gives(found.isnan(), [False, False, True])


def test_row_47() -> None:
    gives(F.lp_pool1d(torch.full((1, 1, 2), 1e20), 2, 2), [INF])
    gives(F.lp_pool1d(torch.full((1, 1, 2), 1e-30), 2, 2), [0])
