"""The contract of every layer, walked over the registry; and that a wrong layer fails it."""

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import LAYERS, LayerSpec, Plan, Tensors, build_registry
from app.schemas.tensors import DTYPES
from tests.conftest import compute

OPTIONS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "max_pool": (
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 2, "stride": 1, "padding": "same_upper", "dilation": 2},
        {"kernel_size": 2, "stride": 1, "padding": "same_lower", "tie": "split"},
    ),
    "avg_pool": (
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
        {"kernel_size": 2, "stride": 1, "padding": "same_upper", "dilation": 2},
        {"kernel_size": 2, "divisor_override": 3},
    ),
    "adaptive_pool": ({"output_size": 2}, {"output_size": 5}, {"output_size": None}),
    "global_pool": ({}, {"keepdims": False}),
    "batch_norm": (
        {"training": True},
        {"training": False, "running_mean": [0.5, -1], "running_var": [2, 0.5]},
    ),
}


def sample(spec: LayerSpec, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """An input without ties."""
    rank = spec.inputs[0].ranks[-1]
    shape = (2, 2, 5, 4, 3)[:rank]
    generator = torch.Generator().manual_seed(7)
    return (torch.randperm(math.prod(shape), generator=generator).view(shape) / 7).to(dtype)


def check_contract(engine: Engine, spec: LayerSpec, options: dict[str, Any]) -> None:
    """Shape rule, dtype, gradients by finite differences, layout."""
    x = sample(spec)
    body = {"input": x, "dtype": "float64", **options}
    answer = compute(engine, spec, body)
    output = answer["output"]
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    assert output.dtype == torch.float64, "dtype kept"
    _check_shape_rule(engine, spec, body, output)
    gradients = compute(engine, spec, {**body, "grad_output": grad})["gradients"]
    assert gradients.keys() == {port.name for port in spec.inputs if port.differentiable}
    _check_gradient(engine, spec, body, grad, gradients["input"])
    last = compute(
        engine,
        spec,
        {**body, "input": x.movedim(1, -1), "layout": "channels_last", "grad_output": "ones"},
    )
    first = compute(engine, spec, {**body, "grad_output": "ones"})
    assert torch.allclose(last["output"].movedim(-1, 1), output), "channels_last"
    assert torch.allclose(last["gradients"]["input"].movedim(-1, 1), first["gradients"]["input"])


def _check_shape_rule(
    engine: Engine, spec: LayerSpec, body: dict[str, Any], output: torch.Tensor
) -> None:
    from app.layers import shape_model

    fields = {k: v for k, v in body.items() if k not in {p.name for p in spec.inputs} | {"dtype"}}
    call: Any = shape_model(spec).model_validate({"input_shape": body["input"].shape, **fields})
    answer = engine.shape(spec, call)
    assert answer["output_shape"] == tuple(output.shape), "the shape rule is the real shape"
    assert answer["output_elements"] == output.numel()
    assert answer["multiply_adds"] >= output.numel(), "the cost covers each element"


def _check_gradient(
    engine: Engine, spec: LayerSpec, body: dict[str, Any], grad: torch.Tensor, actual: torch.Tensor
) -> None:
    x, step = body["input"], 1e-4
    rng = random.Random(0)
    indices = list(itertools.product(*map(range, x.shape)))
    for index in rng.sample(indices, 12):
        losses = []
        for sign in (1, -1):
            moved = x.clone()
            moved[index] += sign * step
            losses.append((compute(engine, spec, {**body, "input": moved})["output"] * grad).sum())
        finite = (losses[0] - losses[1]) / (2 * step)
        assert abs(finite - actual[index]) < 1e-6, "gradient against finite differences"


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_every_layer_keeps_the_contract(engine: Engine, spec: LayerSpec) -> None:
    for options in OPTIONS[spec.family]:
        check_contract(engine, spec, options)


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_every_example_works(engine: Engine, spec: LayerSpec) -> None:
    answer = compute(engine, spec, dict(spec.example))
    assert answer["output"].numel()
    assert not answer["output"].isnan().any()


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_every_dtype_is_kept(engine: Engine, spec: LayerSpec) -> None:
    x = sample(spec).abs().round().clamp(max=9)
    options = OPTIONS[spec.family][0]
    for dtype in spec.dtypes:
        sent = x if DTYPES[dtype].is_float else x.long()
        answer = compute(engine, spec, {"input": sent, "dtype": dtype, **options})
        assert answer["output"].dtype == getattr(torch, dtype)


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_one_sample_without_its_batch_axis(engine: Engine, spec: LayerSpec) -> None:
    options = OPTIONS[spec.family][1 if spec.family == "batch_norm" else 0]
    x = sample(spec)[:1]
    body = {"dtype": "float64", **options}
    batched = compute(engine, spec, {"input": x, **body})
    alone = compute(engine, spec, {"input": x[0], "batched": False, **body})
    assert torch.equal(alone["output"], batched["output"][0])


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_nothing_sent_is_changed(engine: Engine, spec: LayerSpec) -> None:
    x = sample(spec)
    before = x.clone()
    for options in OPTIONS[spec.family]:
        first = compute(engine, spec, {"input": x, "dtype": "float64", **options})
        again = compute(engine, spec, {"input": x, "dtype": "float64", **options})
        assert torch.equal(first["output"], again["output"])
    assert torch.equal(x, before)


def _wrong_value(tensors: Tensors, plan: Plan) -> Tensors:
    output = LAYERS["avg_pool2d"].run(tensors, plan)["output"]
    return {"output": output + (output.detach() * 0.01)}


def _wrong_gradient(tensors: Tensors, plan: Plan) -> Tensors:
    output = LAYERS["avg_pool2d"].run(tensors, plan)["output"]
    return {"output": output * 2 - output.detach()}


def _wrong_shape(tensors: Tensors, plan: Plan) -> Tensors:
    return {"output": LAYERS["avg_pool2d"].run(tensors, plan)["output"][..., :1]}


@pytest.mark.parametrize("fault", [_wrong_value, _wrong_gradient, _wrong_shape])
def test_a_planted_fault_fails_the_contract(engine: Engine, fault: Any) -> None:
    wrong = dataclasses.replace(LAYERS["avg_pool2d"], name="wrong", run=fault)
    with pytest.raises(AssertionError):
        check_contract(engine, wrong, {"kernel_size": 2})


def test_nothing_escapes_the_walk() -> None:
    assert {spec.family for spec in LAYERS.values()} == set(OPTIONS)
    with pytest.raises(ValueError, match="two layers"):
        build_registry([LAYERS["max_pool1d"], LAYERS["max_pool1d"]])


def test_limits_hold_before_anything_is_allocated(engine: Engine) -> None:
    x = torch.zeros(1, 1, 2, 2)
    for name, body, code in (
        ("adaptive_avg_pool2d", {"output_size": [10**5, 10**5]}, "output-too-large"),
        ("max_pool2d", {"kernel_size": 5000}, "invalid-request"),
        ("max_pool2d", {"kernel_size": 4096, "padding": [[4095, 4094]] * 2}, "output-too-large"),
        ("avg_pool2d", {"kernel_size": 4096, "padding": [[4095, 4094]] * 2}, "output-too-large"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            compute(engine, name, {"input": x, **body})
        assert caught.value.code == code
