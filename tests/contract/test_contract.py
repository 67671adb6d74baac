"""The contract of every layer, walked over the registry; and that a wrong layer fails it."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from app.codecs import json as json_codec
from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import FAMILIES, LAYERS, LayerSpec, Plan, Tensors, build_registry, shape_model
from app.schemas.tensors import DTYPES, TensorPayload
from tests.conftest import call_of, compute

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLES = 5
"""How many elements of a gradient are held against differences."""
FITTED = {"convention", "normalized_shape"}
"""Options that go with the shapes or the layout of their own case."""


def options_alone(spec: LayerSpec) -> tuple[dict[str, Any], ...]:
    """What the layer's own cases set, where that goes with its family and with any shape."""
    if spec.family == "max_unpool":
        return ({"kernel_size": 2},)  # its indices go with the rest
    family = [other for other in LAYERS.values() if other.family == spec.family]
    shared = set.intersection(*(set(other.options.model_fields) for other in family))
    names = shared | {"running_mean", "running_var"}
    found: list[dict[str, Any]] = []
    for case in spec.own_cases or spec.cases[:1]:
        options = {name: value for name, value in case.body.items() if name in names}
        if options not in found and not any(options.get(name) for name in FITTED):
            found.append(options)
    return tuple(found)


OPTIONS: Mapping[str, tuple[dict[str, Any], ...]] = {
    spec.family: options_alone(spec) for spec in reversed(list(LAYERS.values()))
}
"""Options of each family, from its first layer, which go with tensors of other sizes."""


def body_of(spec: LayerSpec, name: str) -> dict[str, Any]:
    """The case of that name, in float64."""
    return in_float64(spec, next(case.body for case in spec.cases if case.name == name))


def in_float64(spec: LayerSpec, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with torch tensors, without its gradient."""
    sent = {**body, "dtype": "float64"}
    sent.pop(spec.gradient, None)
    for port in spec.inputs:
        if port.name in sent:
            dtype = getattr(torch, port.dtype or "float64")
            values = sent[port.name]
            tensors = [torch.tensor(v, dtype=dtype) for v in (values if port.many else [values])]
            sent[port.name] = tensors if port.many else tensors[0]
    return sent


def results(spec: LayerSpec, answer: dict[str, Any]) -> list[torch.Tensor]:
    """The output, or the outputs."""
    result: Any = answer[spec.result]
    return result if spec.many else [result]


def check_contract(engine: Engine, spec: LayerSpec, body: dict[str, Any]) -> None:
    """Shape rule, dtype, gradients by finite differences, layout."""
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
    if not body.keys() & {"convention", "layout", "batched"}:
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
    ports = {port.name for port in spec.inputs} | {"dtype", "explain"}
    fields = {name: value for name, value in body.items() if name not in ports}
    if spec.many:
        fields["input_shapes"] = [x.shape for x in body["inputs"]]
    else:
        fields["input_shape"] = body["input"].shape
    if spec.family == "conv":
        lengths = body["weight"].shape
        kernel = lengths[:-2] if body["weight_layout"] == "hwio" else lengths[2:]
        fields |= {"out_channels": 4, "kernel_size": kernel}
    call: Any = shape_model(spec).model_validate(fields)
    answer = engine.shape(spec, call)
    real = [tuple(output.shape) for output in outputs]
    assert answer["output_shapes" if spec.many else "output_shape"] == (
        real if spec.many else real[0]
    ), "the shape rule is the real shape"
    assert answer["conventions"][body.get("convention", "torch")] == (
        real if spec.many else real[0]
    )
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
    """Some elements of one input's gradient against central differences."""
    leaves = actual if isinstance(actual, list) else [actual]
    for number, gradient in enumerate(leaves):
        fill = 1 - body.get("weight_offset", 0) if name == "weight" else 0
        value: Any = body.get(name, torch.full_like(gradient, fill))
        x, step = (value[number] if spec.many and name == "inputs" else value), 1e-4
        indices = list(itertools.product(*map(range, x.shape)))
        for index in random.Random(0).sample(indices, min(SAMPLES, len(indices))):
            losses = []
            for sign in (1, -1):
                moved = x.clone()
                moved[index] += sign * step
                sent = [*value[:number], moved, *value[number + 1 :]] if name == "inputs" else moved
                answer = compute(engine, spec, {**body, name: sent})
                pairs = zip(results(spec, answer), grads, strict=True)
                # -Infinity is the constant result of a window without elements.
                losses.append(
                    sum(float((y.nan_to_num(math.nan, math.inf, 0) * g).sum()) for y, g in pairs)
                )
            finite = (losses[0] - losses[1]) / (2 * step)
            scale = max(1.0, abs(finite))
            assert abs(finite - gradient[index]) < 1e-6 * scale, f"{name} by finite differences"


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_every_layer_keeps_the_contract(engine: Engine, spec: LayerSpec) -> None:
    for case in spec.own_cases or spec.cases:
        check_contract(engine, spec, in_float64(spec, case.body))


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_the_cases_cover_every_option(spec: LayerSpec) -> None:
    assert not uncovered(spec)
    names = [case.name for case in spec.cases]
    assert len(set(names)) == len(names)


def uncovered(spec: LayerSpec) -> list[str]:
    """Options that no case sets, and values of theirs that could be listed and that none has."""
    found = []
    told = spec.options.model_json_schema()["properties"]
    for name in spec.options.model_fields:
        values = [case.body[name] for case in spec.cases if name in case.body]
        found += [name] * (not values)
        found += [f"{name} {value}" for value in listed(told[name]) if value not in values]
    return found


def listed(schema: Mapping[str, Any]) -> list[Any]:
    """The values of an option that its JSON schema lists: words, flags, null."""
    kinds = [schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if len(kinds) > 1:
        return [value for kind in kinds[1:] for value in listed(kind)]
    types: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}
    return list(schema.get("enum", types.get(schema.get("type", ""), ())))


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_answered_options_sent_back_give_the_same_answer(engine: Engine, spec: LayerSpec) -> None:
    for case in spec.cases:
        check_options_again(engine, spec, case.body)


def check_options_again(engine: Engine, spec: LayerSpec, body: Mapping[str, Any]) -> None:
    """An answer says which options were used, in the form that a request takes."""
    first = answer_of(engine, spec, body)
    assert answer_of(engine, spec, {**body, **first["options"]}) == first


def answer_of(engine: Engine, spec: LayerSpec, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer in JSON."""
    call = call_of(spec, dict(body))
    answer = engine.run(spec, call, engine.plan(spec, call)[0])
    fields: dict[str, Any] = json.loads(b"".join(json_codec.encode(answer)))
    return fields


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
    body = body_of(spec, "channels_first")
    for dtype in spec.dtypes:
        sent = dict(body)
        if not DTYPES[dtype].is_float:
            sent["input"] = body["input"].abs().long()
        for output in results(spec, compute(engine, spec, {**sent, "dtype": dtype})):
            assert output.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_one_sample_without_its_batch_axis(engine: Engine, spec: LayerSpec) -> None:
    if not spec.inputs[0].mapped:
        return
    body = body_of(spec, "channels_first")
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
    for case in spec.cases:
        call = call_of(spec, dict(case.body))
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
        check_contract(engine, wrong, body_of(wrong, "plain"))


def test_an_option_left_out_of_the_cases_is_found() -> None:
    conv = LAYERS["conv2d"]
    few = tuple(case for case in conv.own_cases if "groups" not in case.body)
    assert uncovered(dataclasses.replace(conv, own_cases=few)) == ["padding same", "groups"]
    assert "keepdims False" in uncovered(
        dataclasses.replace(LAYERS["global_max_pool"], own_cases=())
    )


def test_options_answered_wrongly_are_found(engine: Engine) -> None:
    relu, pool = LAYERS["relu"], LAYERS["max_pool2d"]

    def forgetful(shapes: Any, options: Any) -> Plan:
        right = pool.plan(shapes, options)
        return dataclasses.replace(right, options=right.options.model_copy(update={"padding": 0}))

    wrong = dataclasses.replace(pool, plan=forgetful)
    body = {**pool.cases[0].body, "stride": 1, "padding": 1}
    check_options_again(engine, relu, relu.cases[0].body)
    with pytest.raises(AssertionError):
        check_options_again(engine, wrong, body)


def test_nothing_escapes_the_walk() -> None:
    assert {spec for family in FAMILIES for spec in family.SPECS} == set(LAYERS.values())
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
