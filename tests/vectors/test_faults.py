"""Each fault that `check` can name is shown by a case of a complete set."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidRequest
from app.faults import FAULTS, Fault
from app.layers import LAYERS, LayerSpec
from app.operations.vectors import Case
from app.operations.vectors._requests import call_of
from app.schemas.tensors import TensorPayload
from tests.vectors._sets import CPU, cases, tensors

UNSHOWN_ON_ONE_AXIS = {"axes-swapped", "tie-column-major", "kernel-transposed"}
"""Faults that need two axes."""


def shown_by(spec: LayerSpec, fault: Fault, found: tuple[Case, ...]) -> Iterator[str]:
    """The cases that tell the fault from a right implementation."""
    built = fault.layer(spec)
    if built is spec:
        return
    for case in found:
        call = call_of(spec, sent(spec, case))
        try:
            plan, _ = CPU.plan(spec, call, keep=False)
            if not fault.applies(plan):
                continue
            if fault.in_dtype:
                call = call.model_copy(update={"compute_dtype": call.dtype})
            wrong = CPU.run(built, call, CPU.plan(built, call, keep=False)[0])
        except InvalidRequest:  # the client's output has another shape than the gradient sent
            alone = call.model_copy(update={spec.gradient: None})
            try:
                wrong = CPU.run(built, alone, CPU.plan(built, alone, keep=False)[0])
            except InvalidRequest:
                continue
            output, right = wrong.get("output"), case.response.get("output")
            if output and right and output.shape != right.shape:
                yield case.name
            continue
        except (RuntimeError, ValueError, IndexError):
            continue
        if differs(case, wrong):
            yield case.name


def sent(spec: LayerSpec, case: Case) -> dict[str, Any]:
    """The request's fields, lists as lists."""
    fields: dict[str, Any] = {}
    for name, value in case.request.items():
        head, dot, _ = name.partition(".")
        if dot:
            fields[head] = (*fields.get(head, ()), value)
        else:
            fields[name] = value
    return fields


def differs(case: Case, wrong: Any) -> bool:
    got, right = tensors(wrong), tensors(case.response)
    for name, reference in right.items():
        if name not in got or got[name].shape != reference.shape:
            return True
        tolerance = case.tolerance[name]
        a, b = got[name], reference
        with np.errstate(invalid="ignore"):
            fits = (a == b) | (np.isnan(a) & np.isnan(b))
            fits |= np.abs(a - b) <= tolerance.atol + tolerance.rtol * np.abs(b)
        if not fits.all():
            return True
    return False


@pytest.mark.parametrize("layer", LAYERS)
def test_each_fault_is_shown_by_a_case(layer: str) -> None:
    """A fault of one name may be emulated in several ways; one of them must be shown."""
    spec, silent = LAYERS[layer], set()
    by_name: dict[str, list[Fault]] = {}
    for fault in FAULTS:
        if spec.family in fault.families and fault.layer(spec) is not spec:
            by_name.setdefault(fault.name, []).append(fault)
    for name, ways in by_name.items():
        if not any(
            any(shown_by(spec, fault, cases(layer, dtype=dtype)))
            for fault in ways
            for dtype in (("float32", "bfloat16", "float16") if fault.in_dtype else ("float32",))
        ):
            silent.add(name)
    assert silent <= (UNSHOWN_ON_ONE_AXIS if layer.endswith("1d") else set())


def test_a_set_without_padding_shows_no_fault_of_padding() -> None:
    spec = LAYERS["max_pool2d"]
    fault = next(f for f in FAULTS if f.name == "zero-padded-maximum" and spec.family in f.families)
    plain = tuple(c for c in cases("max_pool2d") if "padding" not in c.tags)[:3]
    assert not any(shown_by(spec, fault, plain))
    assert any(shown_by(spec, fault, cases("max_pool2d")))
    assert isinstance(plain[0].request["input"], TensorPayload)
