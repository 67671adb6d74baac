"""What every set of golden vectors keeps to: its count, coverage, exact third, and names."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from app.layers import LAYERS, LayerSpec
from app.operations.vectors._families import SCENARIOS, scenarios
from app.operations.vectors._scenario import Setting
from app.schemas.options import CONVENTIONS
from tests.contract.test_contract import listed
from tests.vectors._sets import COMPLETE, cases, tensors

EACH = pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
HALVES = ("float16", "bfloat16")
TRAPS: Mapping[str, tuple[str, ...]] = {
    "max_pool": ("indivisible", "overlap", "padding", "dropped-window", "nan", "infinity", "ties",
                 "zero", "layout", "dilation", "indices", "size"),
    "avg_pool": ("indivisible", "overlap", "padding", "dropped-window", "divisor", "layout"),
    "lp_pool": ("indivisible", "overlap", "padding", "dropped-window", "power", "layout"),
    "adaptive_pool": ("indivisible", "overlap", "layout"),
    "global_pool": ("layout", "size"),
    "max_unpool": ("indices", "overlap", "layout", "indivisible", "zero"),
    "batch_norm": ("constant", "size", "precision", "nan", "layout", "eps", "momentum"),
    "sync_batch_norm": ("constant", "precision", "nan", "layout", "eps", "momentum"),
    "group_norm": ("constant", "precision", "nan", "layout", "eps"),
    "layer_norm": ("precision", "nan", "layout", "eps", "axis"),
    "conv": ("indivisible", "overlap", "padding", "groups", "dilation", "kernel", "layout"),
    "relu": ("zero", "nan", "infinity", "layout"),
}  # fmt: skip
NAMED = {"batch-of-one-channels-first", "batch-of-one-channels-last", "empty-batch"}


@EACH
def test_a_complete_set_covers_every_option(spec: LayerSpec) -> None:
    assert not uncovered(spec, None)


def uncovered(spec: LayerSpec, convention: str | None) -> list[str]:
    """Options without a case, and listed values without one."""
    told, found = spec.options.model_json_schema()["properties"], []
    requests = [case.request for case in cases(spec.name, convention=convention)]
    for name in spec.options.model_fields:
        values = [request[name] for request in requests if name in request]
        found += [name] * (not values)
        wanted = listed(told[name]) if told[name].get("$ref") is None else []
        if name in ("normalized_shape", "axis"):
            wanted = []  # of the two, each request has one
        if name == "num_groups" and convention not in ("keras", "flax"):
            wanted = []  # null is refused
        found += [f"{name} {value}" for value in wanted if value not in values]
    return found


def test_an_option_without_its_values_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LAYERS["avg_pool2d"]
    few = cases(spec.name)[:5]
    monkeypatch.setitem(globals(), "cases", lambda *_, **__: few)
    assert uncovered(spec, None)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("layer", ["max_pool2d", "group_norm", "batch_norm1d", "conv1d"])
def test_a_set_keeps_to_its_convention(layer: str, convention: str) -> None:
    found = cases(layer, convention=convention)
    assert {case.request["convention"] for case in found} == {convention}
    missing = uncovered(LAYERS[layer], convention)
    assert {name.partition(" ")[0] for name in missing} <= {"convention"}


@EACH
def test_the_traps_come_in_every_set(spec: LayerSpec) -> None:
    found = cases(spec.name)
    tags = {tag for case in found for tag in case.tags}
    assert set(TRAPS[spec.family]) <= tags
    names = {case.name for case in found}
    if spec.family not in ("layer_norm", "relu"):
        empty = {name for name in names if name.startswith("empty-batch")}
        assert NAMED - {"empty-batch"} <= names
        assert empty


@EACH
def test_names_say_what_breaks_and_are_unique(spec: LayerSpec) -> None:
    found = cases(spec.name)
    assert len({case.name for case in found}) == len(found) == COMPLETE
    for case in found:
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", case.name)
        assert re.fullmatch(r"[^\n]{5,200}[.]", case.why)
    listed_names = [one.name for one in scenarios(Setting(spec, 0, "float32", None))]
    assert len(set(listed_names)) == len(listed_names) <= COMPLETE


def test_every_layer_has_its_own_scenarios() -> None:
    stems = {re.sub(r"[123]d$", "", name) for name in LAYERS}
    assert stems == SCENARIOS.keys()


@EACH
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 65, 256])
def test_exactly_as_many_cases_come_as_asked(spec: LayerSpec, count: int) -> None:
    if count == 256 and spec.name not in ("relu", "avg_pool1d"):
        return
    assert len(cases(spec.name, count)) == count


@EACH
def test_a_third_is_exact(spec: LayerSpec) -> None:
    exact = ["exact" in case.tags for case in cases(spec.name)]
    for count in (3, 6, 16, COMPLETE):
        assert sum(exact[:count]) >= count // 3


@EACH
def test_exact_outputs_hold_in_bfloat16(spec: LayerSpec) -> None:
    for case in cases(spec.name):
        for name, values in tensors(case.response).items():
            tolerance = case.tolerance[name]
            if tolerance.atol or tolerance.rtol or values.dtype == np.int64:
                continue
            halves = torch.from_numpy(np.array(values)).bfloat16().double().numpy()
            assert np.array_equal(halves, values, equal_nan=True), (case.name, name)


@EACH
def test_requests_have_every_option(spec: LayerSpec) -> None:
    wanted = set(spec.options.model_fields) | {"batched", "dtype", "compute_dtype", "encoding"}
    for case in cases(spec.name):
        absent = wanted - case.request.keys()
        assert absent <= {"normalized_shape", "axis"}, case.name
        assert len(absent) == ("axis" in wanted)
        assert case.request["compute_dtype"] == "float64"
        assert spec.gradient in {name.partition(".")[0] for name in case.request}


@pytest.mark.parametrize("dtype", ["float64", *HALVES])
@EACH
def test_every_dtype_has_a_complete_set(spec: LayerSpec, dtype: str) -> None:
    found = cases(spec.name, dtype=dtype)
    assert len(found) == COMPLETE
    for case in found:
        output: Any = case.response.get("output") or case.response["outputs.0"]
        assert output.dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_integers_have_no_gradients(dtype: str) -> None:
    for case in cases("max_pool2d", dtype=dtype):
        assert "grad_output" not in case.request
        assert "compute_dtype" not in case.request
        assert all(tolerance == (0, 0, 0, 1) for tolerance in case.tolerance.values())


@EACH
def test_another_seed_has_other_numbers_under_the_same_names(spec: LayerSpec) -> None:
    here, there = cases(spec.name, 16), cases(spec.name, 16, seed=1)
    assert [case.name for case in here] == [case.name for case in there]
    inputs = [tensors(case.request) for case in (*here, *there)]
    pairs = zip(inputs[:16], inputs[16:], strict=True)
    other = [any(not np.array_equal(a[n], b[n], equal_nan=True) for n in a) for a, b in pairs]
    assert sum(other) >= 12
