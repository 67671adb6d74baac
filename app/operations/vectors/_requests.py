"""From a scenario's arrays to a client's request: layout, gradient, explicit options."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from app.codecs import Array, as_payload, from_numbers
from app.compute import Engine
from app.layers import LayerSpec, Plan, compute_model
from app.operations._validation import validated
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import GRADIENT, Body, Setting
from app.schemas.calls import ComputeCall
from app.schemas.tensors import DTYPES, TensorPayload

EXCLUSIVE = ("normalized_shape", "axis")
"""Options of which a request has one."""


def request(
    engine: Engine, setting: Setting, body: Body, draw: Draw, *, steady: bool
) -> tuple[dict[str, Any], Plan]:
    """The fields of a request, tensors as payloads, with every option; and its plan."""
    spec = setting.spec
    options: dict[str, Any] = {
        "convention": setting.used,
        "dtype": setting.dtype,
        **({"compute_dtype": "float64"} if setting.is_float else {}),
    }
    ports = {port.name for port in spec.inputs}
    options |= {name: value for name, value in body.items() if name not in {*ports, GRADIENT}}
    sent = _Sender(spec, options, setting.dtype)
    tensors = {name: sent.port(name, body[name]) for name in body if name in ports}
    plan, call = _planned(engine, spec, {**options, **tensors})
    options = _explicit(spec, options, plan, call)
    wanted = body.get(GRADIENT, "drawn")
    if setting.is_float and wanted == "ones":
        tensors[spec.gradient] = "ones"
    elif setting.is_float and wanted is not None:
        tensors[spec.gradient] = sent.gradient(plan, draw.small if steady else draw.fine)
    plan, _ = _planned(engine, spec, {**options, **tensors})
    return {**options, "encoding": "flat", "explain": False, **tensors}, plan


def call_of(spec: LayerSpec, fields: Mapping[str, Any]) -> ComputeCall:
    """The validated request."""
    call: ComputeCall = validated(compute_model(spec), fields)
    return call


def _planned(
    engine: Engine, spec: LayerSpec, fields: Mapping[str, Any]
) -> tuple[Plan, ComputeCall]:
    call = call_of(spec, fields)
    return engine.plan(spec, call, keep=False)[0], call


def _explicit(
    spec: LayerSpec, given: Mapping[str, Any], plan: Plan, call: ComputeCall
) -> dict[str, Any]:
    """Every option: as given, or else with the value that is used."""
    used = {name: getattr(plan.options, name) for name in spec.options.model_fields}
    chosen = [name for name in EXCLUSIVE if name in given]
    if chosen:
        used = {name: value for name, value in used.items() if name not in EXCLUSIVE}
    return {**used, "batched": call.batched, **given}


class _Sender:
    """Turns arrays, with a batch axis and channels first, to payloads as a client sends them."""

    def __init__(self, spec: LayerSpec, options: Mapping[str, Any], dtype: str) -> None:
        self._spec = spec
        self._ports = {port.name: port for port in spec.inputs}
        self._dtype = dtype
        preset = spec.presets[options["convention"]]
        self._last = options.get("layout", preset.get("layout")) == "channels_last"
        self._batched = options.get("batched", True)
        self._weights = options.get("weight_layout", preset.get("weight_layout", "oihw"))

    def port(self, name: str, value: Any) -> Any:
        """One input, or a list of inputs."""
        port = self._ports[name]
        dtype = port.dtype or self._dtype
        if port.many:
            return tuple(self._payload(self._mapped(one), dtype) for one in value)
        if port.mapped:
            value = self._mapped(value)
        elif self._spec.family == "conv" and name == "weight" and self._weights == "hwio":
            value = np.moveaxis(value, (0, 1), (-1, -2))
        return self._payload(value, dtype)

    def gradient(self, plan: Plan, drawn: Callable[..., Array]) -> Any:
        """A drawn gradient for each output."""
        spec = self._spec
        names = [name for name in plan.outputs if name.partition(".")[0] == spec.result]
        mapped = spec.outputs[0].mapped
        arrays = [drawn(*plan.outputs[name]) for name in names]
        payloads = [self._payload(self._mapped(g) if mapped else g, self._dtype) for g in arrays]
        return tuple(payloads) if spec.many else payloads[0]

    def _mapped(self, array: Array) -> Array:
        if self._last and array.ndim > 2:
            array = np.moveaxis(array, 1, -1)
        return array if self._batched else array[0]

    def _payload(self, array: Array, dtype: str) -> TensorPayload:
        row = DTYPES[dtype]
        numbers = np.array(array, np.float64 if row.is_float else np.int64, order="C")
        if dtype == "uint8":
            numbers = np.abs(numbers)
        elements, misfit = from_numbers(numbers, row)
        assert misfit is None, "the numbers of a scenario fit every dtype"
        return as_payload(elements, dtype, numbers.shape)
