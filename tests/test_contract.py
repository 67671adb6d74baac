"""The contract of every layer, walked over the registry; and that a wrong layer fails it."""

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from app.codecs import json as json_codec
from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import LAYERS, LayerSpec, Plan, Tensors, build_registry, shape_model
from app.schemas.tensors import DTYPES, TensorPayload
from tests.conftest import call_of, compute

RUNNING: dict[str, Any] = {"running_mean": [0.5, -1], "running_var": [2, 0.5]}
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
    "lp_pool": (
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "norm_type": 3},
        {"kernel_size": 2, "padding": "same_upper", "dilation": 2, "norm_type": 1.5},
        {"kernel_size": 2, "stride": 3, "ceil_mode": True, "lp_abs": True, "lp_partial": "sum"},
    ),
    "adaptive_pool": ({"output_size": 2}, {"output_size": 5}, {"output_size": None}),
    "global_pool": ({}, {"keepdims": False}),
    "max_unpool": (
        {"kernel_size": 2},
        {"kernel_size": 2, "index_base": "tf"},
        {"kernel_size": 2, "index_base": "onnx", "storage_order": "column"},
    ),
    "batch_norm": ({"training": True, **RUNNING}, {"training": False, **RUNNING}),
    "sync_batch_norm": ({"training": True, **RUNNING}, {"training": False, **RUNNING}),
    "group_norm": ({}, {"eps": 0.5}),
    "layer_norm": ({"axis": -1}, {"axis": 1, "eps": 0.5}),
    "conv": (
        {},
        {"stride": 2, "padding": 1},
        {"padding": "same_upper", "dilation": 2},
        {"padding": [[2, 1]], "groups": 2},
    ),
    "relu": ({},),
}


def numbers(*shape: int) -> torch.Tensor:
    """Positive float64 numbers without ties."""
    generator = torch.Generator().manual_seed(7)
    return (1 + torch.randperm(math.prod(shape), generator=generator).view(shape).double()) / 7


def request(spec: LayerSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """A body in float64 with every tensor that the layer needs."""
    port = spec.inputs[0]
    rank = [rank for rank in port.ranks if rank <= 5][-1]
    shape = (2, 2, 5, 4, 3)[:rank]
    body: dict[str, Any] = {"dtype": "float64", **options}
    if spec.many:
        return {**body, "inputs": [numbers(*shape), numbers(1, *shape[1:]).square()]}
    body["input"] = numbers(*shape)
    if spec.family == "conv":
        body["weight"] = numbers(4, 2 // options.get("groups", 1), *[2] * (rank - 2)).sin()
    if spec.name == "group_norm":
        body["num_groups"] = 2
    if spec.family == "max_unpool":
        pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 3]
        planes = [n // 2 * 2 for n in shape[2:]]
        body["input"], body["indices"] = pool(numbers(2, 2, *planes), 2, return_indices=True)
        body["indices"] = in_base(body["indices"], planes, options.get("index_base", "plane"))
    return body


def in_base(indices: torch.Tensor, planes: list[int], base: str) -> torch.Tensor:
    """Plane indices of two samples and channels, counted otherwise; onnx in column order."""
    numbered = indices.clone()
    for place in itertools.product(*map(range, indices.shape)):
        index = np.unravel_index(int(indices[place]), planes)
        sample, channel = place[:2]
        if base == "tf":
            numbered[place] = int(indices[place]) * 2 + channel
        elif base == "onnx":
            column = int(np.ravel_multi_index(index, planes, order="F"))
            numbered[place] = (sample * 2 + channel) * math.prod(planes) + column
    return numbered


def results(spec: LayerSpec, answer: dict[str, Any]) -> list[torch.Tensor]:
    """The output, or the outputs."""
    result: Any = answer[spec.result]
    return result if spec.many else [result]


def check_contract(engine: Engine, spec: LayerSpec, options: dict[str, Any]) -> None:
    """Shape rule, dtype, gradients by finite differences, layout."""
    body = request(spec, options)
    outputs = results(spec, compute(engine, spec, body))
    grads = [
        torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
        for output in outputs
    ]
    assert all(output.dtype == torch.float64 for output in outputs), "dtype kept"
    _check_shape_rule(engine, spec, body, outputs)
    sent = {**body, spec.gradient: grads if spec.many else grads[0]}
    gradients = compute(engine, spec, sent)["gradients"]
    assert gradients.keys() == {port.name for port in spec.inputs if port.differentiable}
    for name, gradient in gradients.items():
        _check_gradient(engine, spec, body, grads, name, gradient)
    _check_layout(engine, spec, sent, outputs, gradients)


def _check_layout(
    engine: Engine,
    spec: LayerSpec,
    body: dict[str, Any],
    outputs: list[torch.Tensor],
    gradients: dict[str, Any],
) -> None:
    mapped = {port.name for port in spec.inputs if port.mapped}
    if mapped:
        mapped.add(spec.gradient)
    last = {name: _moved(value, 1, -1) if name in mapped else value for name, value in body.items()}
    answer = compute(engine, spec, {**last, "layout": "channels_last"})
    for output, expected in zip(results(spec, answer), outputs, strict=True):
        back = _moved(output, -1, 1) if mapped else output
        assert torch.allclose(back, expected), "channels_last"
    for name, gradient in answer["gradients"].items():
        back = _moved(gradient, -1, 1) if name in mapped else gradient
        torch.testing.assert_close(back, gradients[name])


def _moved(value: Any, source: int, target: int) -> Any:
    if isinstance(value, list):
        return [_moved(item, source, target) for item in value]
    return value.movedim(source, target) if value.dim() > 2 else value


def _check_shape_rule(
    engine: Engine, spec: LayerSpec, body: dict[str, Any], outputs: list[torch.Tensor]
) -> None:
    ports = {port.name for port in spec.inputs} | {"dtype"}
    fields = {name: value for name, value in body.items() if name not in ports}
    if spec.many:
        fields["input_shapes"] = [x.shape for x in body["inputs"]]
    else:
        fields["input_shape"] = body["input"].shape
    if spec.family == "conv":
        fields |= {"out_channels": 4, "kernel_size": body["weight"].shape[2:]}
    call: Any = shape_model(spec).model_validate(fields)
    answer = engine.shape(spec, call)
    real = [tuple(output.shape) for output in outputs]
    assert answer["output_shapes" if spec.many else "output_shape"] == (
        real if spec.many else real[0]
    ), "the shape rule is the real shape"
    assert answer["conventions"]["torch"] == (real if spec.many else real[0])
    elements = sum(output.numel() for output in outputs)
    assert answer["output_elements"] == elements
    assert answer["multiply_adds"] >= elements, "the cost covers each element"


def _check_gradient(
    engine: Engine,
    spec: LayerSpec,
    body: dict[str, Any],
    grads: list[torch.Tensor],
    name: str,
    actual: Any,
) -> None:
    """Twelve elements of one input's gradient against central differences."""
    leaves = actual if isinstance(actual, list) else [actual]
    for number, gradient in enumerate(leaves):
        filled = torch.ones_like if name == "weight" else torch.zeros_like
        value: Any = body.get(name, filled(gradient))
        x, step = (value[number] if spec.many and name == "inputs" else value), 1e-4
        indices = list(itertools.product(*map(range, x.shape)))
        for index in random.Random(0).sample(indices, min(12, len(indices))):
            losses = []
            for sign in (1, -1):
                moved = x.clone()
                moved[index] += sign * step
                sent = [*value[:number], moved, *value[number + 1 :]] if name == "inputs" else moved
                answer = compute(engine, spec, {**body, name: sent})
                pairs = zip(results(spec, answer), grads, strict=True)
                losses.append(sum(float((output * grad).sum()) for output, grad in pairs))
            finite = (losses[0] - losses[1]) / (2 * step)
            scale = max(1.0, abs(finite))
            assert abs(finite - gradient[index]) < 1e-6 * scale, f"{name} by finite differences"


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_every_layer_keeps_the_contract(engine: Engine, spec: LayerSpec) -> None:
    for options in OPTIONS[spec.family]:
        check_contract(engine, spec, options)


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_every_example_works(engine: Engine, spec: LayerSpec) -> None:
    answer = compute(engine, spec, dict(spec.example))
    for output in results(spec, answer):
        assert output.numel()
        assert not output.isnan().any()
    assert spec.formula
    assert spec.differences


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_every_dtype_is_kept(engine: Engine, spec: LayerSpec) -> None:
    body = request(spec, OPTIONS[spec.family][0])
    for dtype in spec.dtypes:
        sent = dict(body)
        if not DTYPES[dtype].is_float:
            sent["input"] = body["input"].clamp(max=9).long()
        for output in results(spec, compute(engine, spec, {**sent, "dtype": dtype})):
            assert output.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_one_sample_without_its_batch_axis(engine: Engine, spec: LayerSpec) -> None:
    if not spec.inputs[0].mapped:
        return
    body = request(spec, OPTIONS[spec.family][1 if "norm" in spec.family else 0])
    if spec.family == "group_norm":
        body = request(spec, {})
    mapped = {port.name for port in spec.inputs if port.mapped}
    one = {
        name: _first(value, keep=True) if name in mapped else value for name, value in body.items()
    }
    none = {
        name: _first(value, keep=False) if name in mapped else value for name, value in body.items()
    }
    batched = compute(engine, spec, one)
    alone = compute(engine, spec, {**none, "batched": False})
    for with_axis, without in zip(results(spec, batched), results(spec, alone), strict=True):
        assert torch.equal(without, with_axis[0])


def _first(value: Any, *, keep: bool) -> Any:
    """The first sample, with its batch axis or without."""
    if isinstance(value, list):
        return [_first(item, keep=keep) for item in value]
    return value[:1] if keep else value[0]


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_nothing_sent_is_changed(engine: Engine, spec: LayerSpec) -> None:
    for options in OPTIONS[spec.family]:
        call = call_of(spec, request(spec, options) | {spec.gradient: "ones"})
        (plan, _), before = engine.plan(spec, call), elements(call)
        first, again = (engine.run(spec, call, plan) for _ in range(2))
        assert elements(call) == before
        assert json_codec.encode(first) == json_codec.encode(again)


def elements(call: Any) -> list[bytes]:
    """The bytes of every tensor in the request."""
    values = [
        v for value in vars(call).values() for v in (value if type(value) is tuple else [value])
    ]
    return [bytes(value.data) for value in values if isinstance(value, TensorPayload)]


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
