"""Runs faults of the table by themselves, without the engine."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from app.faults import FAULTS, Fault
from app.layers import LAYERS, LayerSpec, Plan, options_of
from tests.conftest import call_of

Arrays = dict[str, np.ndarray]


def of_name(name: str, layer: str) -> list[Fault]:
    """The faults of that name that the layer can have."""
    spec = LAYERS[layer]
    return [
        fault
        for fault in FAULTS
        if fault.name == name and spec.family in fault.families and fault.layer(spec) is not spec
    ]


def right(layer: str, inputs: Mapping[str, Any], grad: Any = None, **options: Any) -> Arrays:
    """What the layer itself answers, in float64."""
    spec = LAYERS[layer]
    return answered(spec, spec, inputs, grad, **options)


def emulated(
    fault: Fault,
    layer: str,
    inputs: Mapping[str, Any],
    grad: Any = None,
    dtype: Any = torch.float64,
    **options: Any,
) -> Arrays:
    """What a client with the fault would have got: outputs, and `gradients.NAME` of each input."""
    spec = LAYERS[layer]
    return answered(spec, fault.layer(spec), inputs, grad, dtype, **options)


KNOWN: dict[str, Any] = {}
"""Options by what they were made from; to validate a request takes longer than to emulate it."""


def planned(spec: LayerSpec, built: LayerSpec, inputs: Mapping[str, Any], **options: Any) -> Plan:
    """The plan of a layer built from `spec`."""
    sent = {name: np.asarray(value) for name, value in inputs.items()}
    shapes = {name: value.shape for name, value in sent.items()}
    key = f"{spec.name} {shapes} {options}"
    if key not in KNOWN:
        body: dict[str, Any] = {}
        for name, value in sent.items():
            port, _, index = name.partition(".")
            zeros = torch.as_tensor(np.zeros_like(value))
            if index:
                body.setdefault(port, []).append(zeros)
            else:
                body[name] = zeros
        KNOWN[key] = options_of(spec, call_of(spec, {**body, **options}))
    return built.plan(shapes, KNOWN[key])


def answered(
    spec: LayerSpec,
    built: LayerSpec,
    inputs: Mapping[str, Any],
    grad: Any = None,
    dtype: Any = torch.float64,
    **options: Any,
) -> Arrays:
    """Run a layer on arrays, and differentiate it."""
    plan = planned(spec, built, inputs, **options)
    tensors: dict[str, torch.Tensor] = {}
    for port in spec.inputs:
        own = getattr(torch, port.dtype) if port.dtype else dtype
        names = [n for n in inputs if n == port.name or n.startswith(f"{port.name}.")]
        for name in names:
            tensors[name] = torch.tensor(np.asarray(inputs[name])).to(own)
        if not names and port.fill is not None:
            fill = port.fill(plan.options) if callable(port.fill) else port.fill
            tensors[port.name] = torch.full(plan.inputs[port.name], fill, dtype=own)
        for name in names or [port.name] * (port.fill is not None):
            tensors[name].requires_grad_(port.differentiable and grad is not None)
    outputs = built.run(tensors, plan)
    found = {name: array(tensor) for name, tensor in outputs.items()}
    if grad is None:
        return found
    results = [name for name in outputs if name.partition(".")[0] == spec.result]
    grads = [grad] if not spec.many else grad
    leaves = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(
        [outputs[name] for name in results],
        list(leaves.values()),
        [torch.as_tensor(g).to(outputs[n]) for n, g in zip(results, grads, strict=True)],
    )
    named = zip(leaves, gradients, strict=True)
    return {**found, **{f"gradients.{name}": array(gradient) for name, gradient in named}}


def array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array; half types as float32."""
    tensor = tensor.detach()
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    result: np.ndarray = (tensor.float() if half else tensor).numpy()
    return result


def assert_same(
    found: Arrays, expected: Mapping[str, Any], rtol: float = 1e-9, atol: float = 1e-11
) -> None:
    """Everything that is expected was found."""
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=rtol, atol=atol, err_msg=name, equal_nan=True
        )


def assert_slopes(found: Arrays, slopes: Mapping[str, Any]) -> None:
    """The gradients are those that central differences give."""
    assert_same(found, slopes, rtol=1e-5, atol=1e-7)


def differences(
    client: Any, inputs: Mapping[str, Any], grad: Any, names: list[str], step: float = 1e-6
) -> Arrays:
    """The gradients of `sum(client(**inputs) * grad)`, by central differences."""
    found = {}
    for name in names:
        slopes = np.zeros_like(inputs[name])
        for index in np.ndindex(slopes.shape):
            sides = []
            for sign in (1, -1):
                moved = {**inputs, name: inputs[name].copy()}
                moved[name][index] += sign * step
                sides.append(np.sum(np.asarray(client(**moved)) * grad))
            slopes[index] = (sides[0] - sides[1]) / (2 * step)
        found[f"gradients.{name}"] = slopes
    return found
