"""Random option sets against torch's own layers: outputs, indices, gradients, statistics."""

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from app.compute import Engine
from app.errors import InvalidRequest
from tests.conftest import compute

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
CASES = 40


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: str) -> None:
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        actual, expected.detach(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def random_input(rng: random.Random, dims: int, dtype: str) -> torch.Tensor:
    shape = (rng.randint(1, 2), rng.randint(1, 3), *(rng.randint(3, 9) for _ in range(dims)))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(rng.random().__hash__() % 2**31))
    if rng.random() < 0.3:
        x = x.round()
    return x.to(getattr(torch, dtype))


def random_window(rng: random.Random, dims: int) -> dict[str, Any]:
    kernel = [rng.randint(1, 4) for _ in range(dims)]
    return {
        "kernel_size": kernel,
        "stride": rng.choice([None, [rng.randint(1, 3) for _ in range(dims)]]),
        "padding": [rng.randint(0, k // 2) for k in kernel],
        "ceil_mode": rng.random() < 0.5,
    }


def answer_or_refusal(engine: Engine, name: str, body: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return compute(engine, name, body)
    except InvalidRequest:
        return None


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_max_pool(engine: Engine, dims: int, dtype: str) -> None:
    rng = random.Random(dims)
    torch_pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    answered = 0
    for _ in range(CASES):
        x, options = random_input(rng, dims, dtype), random_window(rng, dims)
        dilation = [rng.randint(1, 2) for _ in range(dims)]
        body = {**options, "input": x, "dilation": dilation, "dtype": dtype}
        answer = answer_or_refusal(
            engine, f"max_pool{dims}d", {**body, "return_indices": True, "grad_output": "ones"}
        )
        if answer is None:
            continue
        answered += 1
        leaf = x.clone().requires_grad_()
        output, indices = torch_pool(leaf, **options, dilation=dilation, return_indices=True)
        output.sum().backward()
        close(answer["output"], output, dtype)
        assert torch.equal(answer["indices"], indices)
        assert leaf.grad is not None
        close(answer["gradients"]["input"], leaf.grad, dtype)
    assert answered > CASES / 2


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_avg_pool(engine: Engine, dims: int, dtype: str) -> None:
    rng = random.Random(dims)
    torch_pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    answered = 0
    for _ in range(CASES):
        x, options = random_input(rng, dims, dtype), random_window(rng, dims)
        options["count_include_pad"] = rng.random() < 0.5
        if dims > 1 and rng.random() < 0.3:
            options["divisor_override"] = rng.choice([-3, 1, 7])
        body = {**options, "input": x, "dtype": dtype, "grad_output": "ones"}
        answer = answer_or_refusal(engine, f"avg_pool{dims}d", body)
        if answer is None:
            continue
        leaf = x.clone().requires_grad_()
        try:
            output = torch_pool(leaf, **options)
        except RuntimeError:
            continue  # avg_pool3d refuses windows that padding covers
        answered += 1
        output.sum().backward()
        close(answer["output"], output, dtype)
        assert leaf.grad is not None
        close(answer["gradients"]["input"], leaf.grad, dtype)
    assert answered > CASES / 2


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_adaptive_pool(engine: Engine, dims: int, kind: str, dtype: str) -> None:
    rng = random.Random(dims)
    pool: Any = getattr(F, f"adaptive_{kind}_pool{dims}d")
    for _ in range(CASES):
        x = random_input(rng, dims, dtype)
        size = [rng.randint(1, 11) for _ in range(dims)]
        body = {"input": x, "output_size": size, "dtype": dtype, "grad_output": "ones"}
        answer = compute(engine, f"adaptive_{kind}_pool{dims}d", body)
        leaf = x.clone().requires_grad_()
        output = pool(leaf, size)
        output.sum().backward()
        close(answer["output"], output, dtype)
        assert leaf.grad is not None
        close(answer["gradients"]["input"], leaf.grad, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm(engine: Engine, dims: int, training: bool, dtype: str) -> None:
    rng = random.Random(dims)
    for case in range(CASES):
        x = random_input(rng, dims, dtype)
        channels = x.shape[1]
        generator = torch.Generator().manual_seed(case)
        weight, bias, mean = (
            torch.randn(channels, generator=generator, dtype=x.dtype) for _ in range(3)
        )
        var = torch.rand(channels, generator=generator, dtype=x.dtype) + 0.5
        momentum = rng.choice([0.0, 0.1, 0.7, 1.0])
        grad = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        body = {
            "input": x, "weight": weight, "bias": bias, "running_mean": mean, "running_var": var,
            "training": training, "momentum": momentum, "eps": 1e-3, "grad_output": grad,
            "dtype": dtype,
        }  # fmt: skip
        answer = compute(engine, f"batch_norm{dims}d", body)
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        new_mean, new_var = mean.clone(), var.clone()
        output = F.batch_norm(
            leaves[0], new_mean, new_var, leaves[1], leaves[2], training, momentum, 1e-3
        )
        output.backward(grad)
        close(answer["output"], output, dtype)
        for name, leaf in zip(("input", "weight", "bias"), leaves, strict=True):
            assert leaf.grad is not None
            close(answer["gradients"][name], leaf.grad, dtype)
        assert ("running_stats" in answer) is training
        if training:
            close(answer["running_stats"]["mean"], new_mean, dtype)
            close(answer["running_stats"]["var"], new_var, dtype)
            axes = (0, *range(2, x.dim()))
            close(answer["batch_stats"]["var"], x.var(axes, correction=0), dtype)
            close(answer["batch_stats"]["mean"], x.mean(axes), dtype)


def test_cumulative_momentum_is_the_modules(engine: Engine) -> None:
    module = torch.nn.BatchNorm1d(2, momentum=None)
    stats: dict[str, Any] = {}
    for seed in range(3):
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed))
        module(x)
        answer = compute(
            engine, "batch_norm1d", {"input": x, "training": True, "momentum": None, **stats}
        )
        running = answer["running_stats"]
        stats = {
            "running_mean": running["mean"],
            "running_var": running["var"],
            "num_batches_tracked": int(running["num_batches_tracked"]),
        }
    assert module.running_mean is not None
    assert module.running_var is not None
    close(stats["running_mean"], module.running_mean, "float32")
    close(stats["running_var"], module.running_var, "float32")
    assert stats["num_batches_tracked"] == 3


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("keepdims", [True, False])
def test_global_pool(engine: Engine, kind: str, keepdims: bool) -> None:
    for dims in (1, 2, 3):
        x = random_input(random.Random(dims), dims, "float64")
        answer = compute(
            engine,
            f"global_{kind}_pool",
            {"input": x, "keepdims": keepdims, "dtype": "float64", "grad_output": "ones"},
        )
        flat = x.flatten(2)
        expected = flat.amax(2) if kind == "max" else flat.mean(2)
        close(answer["output"].flatten(), expected.flatten(), "float64")
        assert answer["output"].dim() == (dims + 2 if keepdims else 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_are_computed_in_float32_and_rounded_once(engine: Engine, dtype: str) -> None:
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).to(
        getattr(torch, dtype)
    )
    answer = compute(engine, "avg_pool2d", {"input": x.float(), "kernel_size": 3, "dtype": dtype})
    assert torch.equal(answer["output"], F.avg_pool2d(x.float(), 3).to(x.dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("padding", [1, "same_lower"])
def test_integers_pool_exactly(engine: Engine, dtype: str, dims: int, padding: object) -> None:
    low = 0 if dtype == "uint8" else -9
    shape = (2, 2, *[5] * dims)
    x = torch.randint(low, 9, shape, generator=torch.Generator().manual_seed(0))
    body = {"input": x, "kernel_size": 3, "stride": 2, "padding": padding, "dtype": dtype}
    answer = compute(engine, f"max_pool{dims}d", body)
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    assert torch.equal(answer["output"].long(), pool(x.double(), 3, 2, 1).long())
