"""Windows (pooling, convolution) against an own reference in exact fractions, without torch.

It walks every window tap by tap over nested dictionaries of Fractions, with every option.
"""

import itertools
import math
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch

from app.compute import Engine
from app.errors import EmptyWindow, InvalidRequest
from tests.conftest import compute

Index = tuple[int, ...]


def resolve(n: int, k: int, s: int, d: int, padding: Any) -> tuple[int, int, bool]:
    effective = d * (k - 1) + 1
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, False
        total = max(0, (math.ceil(n / s) - 1) * s + effective - n)
        return (total - total // 2, total // 2, True) if padding == "same_lower" else (
            total // 2, total - total // 2, True)  # fmt: skip
    return padding[0], padding[1], False


def out_length(n: int, k: int, s: int, d: int, pads: tuple[int, int, bool], o: Any) -> int:
    before, after, same = pads
    if same:
        return math.ceil(n / s)
    room = Fraction(n + before + after - d * (k - 1) - 1, s)
    length = (math.ceil(room) if o["ceil_mode"] else math.floor(room)) + 1
    if o["ceil_mode"] and o["ceil_rule"] == "drop" and (length - 1) * s >= n + before:
        length -= 1
    return length


def windows(lengths: Index, o: Any) -> Iterator[tuple[Index, list[list[int]], Any]]:
    pads = [
        resolve(n, o["kernel_size"][i], o["stride"][i], o["dilation"][i],
                o["padding"] if isinstance(o["padding"], str) else o["padding"][i])
        for i, n in enumerate(lengths)
    ]  # fmt: skip
    outs = [
        out_length(n, o["kernel_size"][i], o["stride"][i], o["dilation"][i], pads[i], o)
        for i, n in enumerate(lengths)
    ]
    for index in itertools.product(*map(range, outs)):
        taps = [
            [index[i] * o["stride"][i] - pads[i][0] + t * o["dilation"][i]
             for t in range(o["kernel_size"][i])]
            for i in range(len(lengths))
        ]  # fmt: skip
        yield index, taps, pads


def random_options(rng: random.Random, dims: int) -> dict[str, Any]:
    kernel = [rng.randint(1, 3) for _ in range(dims)]
    dilation = [rng.randint(1, 2) for _ in range(dims)]
    pairs = [
        [rng.randint(0, min(2, d * (k - 1))), rng.randint(0, min(2, d * (k - 1)))]
        for k, d in zip(kernel, dilation, strict=True)
    ]
    padding: Any = rng.choice([pairs, pairs, "same_upper", "same_lower", "valid"])
    return {
        "kernel_size": kernel,
        "stride": [rng.randint(1, 3) for _ in range(dims)],
        "dilation": dilation,
        "padding": padding,
        "ceil_mode": rng.random() < 0.5 and padding not in ("same_upper", "same_lower"),
        "ceil_rule": rng.choice(["drop", "keep"]),
    }


def within(position: Index, x: torch.Tensor) -> bool:
    return all(0 <= c < n for c, n in zip(position, x.shape[2:], strict=True))


def values(x: torch.Tensor) -> dict[Index, Fraction]:
    return {index: Fraction(float(x[index])) for index in itertools.product(*map(range, x.shape))}


def accepted(engine: Engine, name: str, body: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return compute(engine, name, body)
    except InvalidRequest as error:
        assert isinstance(error, EmptyWindow) or error.errors[0].code in (
            "window-too-large",
            "out-of-range",
        )
        return None


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("tie", ["first", "split", "all"])
def test_max_pool(engine: Engine, dims: int, tie: str) -> None:
    rng, checked = random.Random(dims), 0
    for case in range(25):
        o = random_options(rng, dims)
        shape = (1, 2, *(rng.randint(2, 6) for _ in range(dims)))
        x = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(case)).double()
        answer = accepted(
            engine,
            f"max_pool{dims}d",
            {**o, "input": x, "tie": tie, "return_indices": True, "dtype": "float64",
             "grad_output": "ones"},
        )  # fmt: skip
        if answer is None:
            continue
        checked += 1
        known = values(x)
        gradient = dict.fromkeys(known, Fraction(0))
        for channel in range(2):
            for index, taps, _ in windows(x.shape[2:], o):
                real = [(0, channel, *p) for p in itertools.product(*taps) if within(p, x)]
                best = max(known[p] for p in real)
                winners = [p for p in real if known[p] == best]
                assert float(best) == answer["output"][(0, channel, *index)]
                plane = 0
                for c, n in zip(winners[0][2:], x.shape[2:], strict=True):
                    plane = plane * n + c
                assert plane == answer["indices"][(0, channel, *index)]
                for p in winners[:1] if tie == "first" else winners:
                    gradient[p] += Fraction(1, len(winners)) if tie == "split" else 1
        for p, expected in gradient.items():
            assert abs(float(expected) - float(answer["gradients"]["input"][p])) < 1e-12
    assert checked > 10


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("overhang", ["inside", "kernel"])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool(engine: Engine, dims: int, overhang: str, count_include_pad: bool) -> None:
    rng, checked = random.Random(dims), 0
    for case in range(25):
        o = random_options(rng, dims)
        shape = (1, 1, *(rng.randint(2, 6) for _ in range(dims)))
        x = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(case)).double()
        answer = accepted(
            engine,
            f"avg_pool{dims}d",
            {**o, "input": x, "overhang_divisor": overhang, "dtype": "float64",
             "count_include_pad": count_include_pad, "grad_output": "ones"},
        )  # fmt: skip
        if answer is None:
            continue
        checked += 1
        known = values(x)
        gradient = dict.fromkeys(known, Fraction(0))
        for index, taps, pads in windows(x.shape[2:], o):
            real = [(0, 0, *p) for p in itertools.product(*taps) if within(p, x)]
            divisor = len(real)
            if count_include_pad:
                divisor = math.prod(
                    sum(overhang == "kernel" or -b <= c < n + a for c in axis)
                    for axis, n, (b, a, _) in zip(taps, x.shape[2:], pads, strict=True)
                )
            expected = sum((known[p] for p in real), Fraction(0)) / max(divisor, 1)
            assert abs(float(expected) - float(answer["output"][(0, 0, *index)])) < 1e-12
            for p in real:
                gradient[p] += Fraction(1, divisor)
        for p, share in gradient.items():
            assert abs(float(share) - float(answer["gradients"]["input"][p])) < 1e-12
    assert checked > 10


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("partial", ["scaled", "sum"])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_lp_pool(engine: Engine, dims: int, partial: str, absolute: bool, power: int) -> None:
    """Sums of powers in fractions; the last root alone is a float's."""
    rng, checked = random.Random(dims), 0
    for case in range(8):
        o = random_options(rng, dims)
        shape = (1, 1, *(rng.randint(2, 6) for _ in range(dims)))
        x = torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(case)).double()
        answer = accepted(
            engine,
            f"lp_pool{dims}d",
            {**o, "input": x, "norm_type": power, "lp_abs": absolute, "lp_partial": partial,
             "dtype": "float64"},
        )  # fmt: skip
        if answer is None:
            continue
        checked += 1
        known = values(x)
        for index, taps, pads in windows(x.shape[2:], o):
            real = [(0, 0, *p) for p in itertools.product(*taps) if within(p, x)]
            total = sum(((abs(known[p]) if absolute else known[p]) ** power for p in real),
                        Fraction(0))  # fmt: skip
            if partial == "scaled":
                inside = math.prod(
                    sum(-b <= c < n + a for c in axis)
                    for axis, n, (b, a, _) in zip(taps, x.shape[2:], pads, strict=True)
                )
                total = total * math.prod(map(len, taps)) / max(inside, 1)
            output = float(answer["output"][(0, 0, *index)])
            if total < 0 and power > 1:
                assert math.isnan(output)
            else:
                expected = float(total) if power == 1 else float(total) ** (1 / power)
                assert abs(expected - output) < 1e-10
    assert checked > 3


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolution(engine: Engine, dims: int) -> None:
    rng = random.Random(dims)
    for case in range(12):
        o = {**random_options(rng, dims), "ceil_mode": False, "ceil_rule": "drop"}
        groups, generator = rng.choice([1, 2]), torch.Generator().manual_seed(case)
        shape = (1, 2, *(rng.randint(5, 6) for _ in range(dims)))
        x = torch.randint(-9, 10, shape, generator=generator).double()
        kernel = o.pop("kernel_size")
        weight = torch.randint(-9, 10, (4, 2 // groups, *kernel), generator=generator).double()
        sent = {name: o[name] for name in ("stride", "dilation", "padding")}
        body = {**sent, "input": x, "weight": weight, "groups": groups, "dtype": "float64"}
        answer = compute(engine, f"conv{dims}d", {**body, "grad_output": "ones"})
        known, weights = values(x), values(weight)
        gradient = dict.fromkeys(known, Fraction(0))
        for out in range(4):
            own = range(2) if groups == 1 else (out // 2,)
            for index, taps, _ in windows(x.shape[2:], {**o, "kernel_size": kernel}):
                total = Fraction(0)
                for place, tap in zip(itertools.product(*map(range, kernel)),
                                      itertools.product(*taps), strict=True):  # fmt: skip
                    for number, channel in enumerate(own):
                        if within(tap, x):
                            factor = weights[(out, number, *place)]
                            total += factor * known[(0, channel, *tap)]
                            gradient[(0, channel, *tap)] += factor
                assert float(total) == answer["output"][(0, out, *index)]
        for place, expected in gradient.items():
            assert float(expected) == answer["gradients"]["input"][place]


def test_index_bases(engine: Engine) -> None:
    x = torch.arange(2 * 3 * 2 * 4).view(2, 3, 2, 4).double()
    body = {"input": x, "kernel_size": [2, 4], "return_indices": True, "dtype": "float64"}
    n, c = torch.arange(2).view(2, 1, 1, 1), torch.arange(3).view(1, 3, 1, 1)
    y, z = 1, 3  # the last element of each plane is its largest
    expected = {
        ("plane", "row"): 0 * n + 0 * c + y * 4 + z,
        ("onnx", "row"): (n * 3 + c) * 8 + y * 4 + z,
        ("onnx", "column"): (n * 3 + c) * 8 + y + z * 2,
        ("tf", "row"): 0 * n + (y * 4 + z) * 3 + c,
    }
    for (base, order), indices in expected.items():
        answer = compute(engine, "max_pool2d", {**body, "index_base": base, "storage_order": order})
        assert torch.equal(answer["indices"], indices)


def test_minus_infinity_keeps_its_first_element_under_padding(engine: Engine) -> None:
    x = torch.full((1, 1, 3), -math.inf)
    body = {"input": x, "kernel_size": 2, "padding": [[1, 0]], "return_indices": True}
    answer = compute(engine, "max_pool1d", {**body, "grad_output": "ones", "stride": 1})
    assert answer["indices"].tolist() == [[[0, 0, 1]]]
    assert answer["gradients"]["input"].tolist() == [[[2.0, 1.0, 0.0]]]


def test_nan_wins_or_is_ignored(engine: Engine) -> None:
    x = torch.tensor([[[1.0, math.nan, 3.0, math.nan, math.nan, 2.0]]])
    body = {"input": x, "kernel_size": 2, "return_indices": True}
    wins = compute(engine, "max_pool1d", body)
    assert wins["output"].isnan().tolist() == [[[True, True, True]]]
    ignored = compute(engine, "max_pool1d", {**body, "nan": "ignore"})
    assert ignored["output"].tolist() == [[[1.0, 3.0, 2.0]]]
    assert ignored["indices"].tolist() == [[[0, 2, 5]]]
