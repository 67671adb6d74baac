"""Builds the cases of a set: request, response, and tolerances, from scenarios and a seed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.codecs import Array, as_array, as_payload, round_to_half, widen
from app.compute import Answer, Engine
from app.compute.device import one_thread
from app.compute.tolerances import RTOL, Tolerance, tolerances
from app.layers import Plan
from app.operations.vectors._draw import Draw
from app.operations.vectors._families import scenarios
from app.operations.vectors._requests import call_of, request
from app.operations.vectors._scenario import Scenario, Setting
from app.schemas.tensors import DTYPES, TensorPayload

MAX_DRAWS = 256
MARGIN = 2.0**-40
"""How far, relative to its tensor, a float64 result stays from where two of the dtype's numbers
meet: far more than float64 results differ between CPUs."""
EXACT = Tolerance(0.0, 0.0, 0, 1)
DIGITS = 3
"""Of an absolute tolerance, which depends on float64 results."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a set. `request` and `response` have dotted names and payloads."""

    name: str
    why: str
    tags: tuple[str, ...]
    request: Mapping[str, Any]
    response: Answer
    tolerance: Mapping[str, Tolerance]


def cases(engine: Engine, setting: Setting, count: int) -> Iterator[Case]:
    """Exactly `count` cases: each scenario, then each again with other numbers.

    Raises:
        InvalidRequest: a scenario's request exceeds a limit of this service.

    """
    listed = scenarios(setting)
    for index in range(count):
        again, number = divmod(index, len(listed))
        with one_thread():
            case = _case(engine, setting, listed[number], again)
        yield case


def _case(engine: Engine, setting: Setting, scenario: Scenario, again: int) -> Case:
    name = scenario.name + (f"-{again + 1}" if again else "")
    for attempt in range(MAX_DRAWS):
        names = (setting.spec.name, name)
        draw = Draw(setting.seed, names, attempt, setting.dtype, setting.dims)
        built = _built(engine, setting, scenario, draw, name)
        if built is not None:
            return built
    raise AssertionError(f"{setting.spec.name}: no numbers for {name} round alike on every CPU")


def _built(
    engine: Engine, setting: Setting, scenario: Scenario, draw: Draw, name: str
) -> Case | None:
    """The case with these numbers, or None if another CPU could round a result otherwise."""
    spec, dtype = setting.spec, setting.dtype
    fields, plan = request(engine, setting, scenario.body(draw), draw, steady=scenario.steady)
    call = call_of(spec, fields)
    response = engine.run(spec, call, plan)
    wide = _in_float64(engine, setting, fields, plan) if setting.is_float else response
    results = {n: p for n, p in response.items() if isinstance(p, TensorPayload)}
    floats = {n: p for n, p in results.items() if DTYPES[p.dtype].is_float}
    if not all(_is_steady(p, as_array(wide[n]), scenario) for n, p in floats.items()):
        return None
    known = tolerances(spec, call, plan, engine.device)
    others = Tolerance(0.0, RTOL.get(dtype, 0.0), 0, 1)
    tolerance = {
        n: EXACT
        if n not in floats or (scenario.exact and _is_short(p, as_array(wide[n])))
        else _rounded_up(known.get(n, others))
        for n, p in results.items()
    }
    tags = list(scenario.tags)
    tags += ["gradient"] if spec.gradient in fields else []
    tags += ["exact"] if tolerance[_first(spec.result, results)] == EXACT else []
    return Case(name, scenario.why, tuple(tags), _dotted(fields), response, tolerance)


def _first(result: str, names: Mapping[str, object]) -> str:
    return result if result in names else f"{result}.0"


def _in_float64(engine: Engine, setting: Setting, fields: Mapping[str, Any], plan: Plan) -> Answer:
    """The answer to the same request before it is rounded."""
    same = {name: _widened(value, setting.dtype) for name, value in fields.items()}
    # A null may stand for a default that depends on the dtype.
    same |= {name: getattr(plan.options, name) for name, value in same.items() if value is None}
    call = call_of(setting.spec, {**same, "dtype": "float64"})
    return engine.run(setting.spec, call, engine.plan(setting.spec, call, keep=False)[0])


def _widened(value: Any, dtype: str) -> Any:
    if isinstance(value, TensorPayload):
        if value.dtype != dtype or dtype == "float64":  # indices have a dtype of their own
            return value
        return as_payload(np.ascontiguousarray(doubles(value)), "float64", value.shape)
    if isinstance(value, tuple) and value and isinstance(value[0], TensorPayload):
        return tuple(_widened(one, dtype) for one in value)
    return value


def doubles(payload: TensorPayload) -> Array:
    """The payload's floats in float64."""
    array = as_array(payload)
    return widen(array.view("<u2"), payload.dtype) if DTYPES[payload.dtype].is_half else (
        array.astype(np.float64)
    )  # fmt: skip


def _is_steady(rounded: TensorPayload, exact: Array, scenario: Scenario) -> bool:
    """Whether float64 results that differ by the margin round to the same numbers of the dtype."""
    if rounded.dtype == "float64" or not exact.size:
        return True
    finite = np.isfinite(exact)
    values = exact[finite]
    size = float(np.abs(values).max(initial=0.0))
    margin = MARGIN * size
    got = doubles(rounded)[finite]
    alike = np.ones(values.shape, bool)
    for near in (values - margin, values + margin):
        again = _round(near, rounded.dtype)
        alike &= (again == got) & (np.signbit(again) == np.signbit(got))
    if scenario.steady:
        with np.errstate(over="ignore"):
            alike |= values.astype(np.float32).astype(np.float64) == values
    return bool(alike.all())


def _round(values: Array, dtype: str) -> Array:
    if DTYPES[dtype].is_half:
        return widen(round_to_half(values, dtype), dtype)
    return values.astype(np.float32).astype(np.float64)


def _is_short(rounded: TensorPayload, exact: Array) -> bool:
    """Whether the numbers hold in bfloat16, and are float64's, but for the last bits."""
    got = doubles(rounded)
    finite = np.isfinite(got)
    got, values = got[finite], exact[finite]
    holds = widen(round_to_half(got, "bfloat16"), "bfloat16") == got
    size = float(np.abs(got).max(initial=0.0))
    near = got == values if rounded.dtype == "float64" else np.abs(got - values) <= MARGIN * size
    return bool(holds.all() and near.all())


def _rounded_up(tolerance: Tolerance) -> Tolerance:
    """The tolerance with few digits of `atol`, none of them from the last bits of a result."""
    atol = tolerance.atol
    if not atol:
        return tolerance
    unit = 10.0 ** (math.floor(math.log10(atol)) - DIGITS + 1)
    return tolerance._replace(atol=float(f"{math.ceil(atol / unit) * unit:.{DIGITS}e}"))


def _dotted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with lists of tensors spelled out: `inputs.0`, `inputs.1`."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, tuple) and value and isinstance(value[0], TensorPayload):
            found |= {f"{name}.{index}": payload for index, payload in enumerate(value)}
        else:
            found[name] = value
    return found
