"""The cost rule bounds the time that a layer takes.

The normal suite counts the work, which is time from below; `make soak` measures processor time as a
ratio to this machine's own pace.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from app.compute import Engine
from app.layers import LAYERS, LayerSpec, Plan, Tensors, compute_model
from app.scheduling import INLINE_MS
from app.schemas.tensors import TensorPayload
from tests._soak import MEASURES
from tests._work import counted_ms
from tests.conftest import call_of
from tests.contract.test_contract import OPTIONS

# The rule counts the work of all threads.
pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = {1: (8, 16, 2048), 2: (8, 16, 32, 32), 3: (4, 8, 16, 16, 16)}
SMALLEST_MS = 0.2
"""What the smallest request takes."""
NOMINAL_MS = 1.0
"""What `pace` took on the machine that the constants were measured on."""


def best_ms(work: Callable[[], object], rounds: int = 5) -> float:
    """The least processor time of some runs: others on the machine cannot add much."""
    spent = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        spent.append((time.process_time() - begun) * 1e3)
    return min(spent)


def pace() -> float:
    """How much slower this machine is now than the one that was measured, at least 1."""
    x = torch.ones(8, 16, 64, 64)
    return max(1.0, best_ms(lambda: F.max_pool2d(x, 2), 9) / NOMINAL_MS)


def payload(tensor: torch.Tensor) -> TensorPayload:
    elements: Any = tensor.contiguous().numpy().reshape(-1)
    return TensorPayload(
        str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), memoryview(elements)
    )


def large_call(spec: LayerSpec, options: dict[str, Any], dtype: str, *, backward: bool) -> Any:
    """A validated request of tens of thousands of numbers."""
    dims = {3: 1, 5: 3}.get([r for r in spec.inputs[0].ranks if r <= 5][-1], 2)
    if spec.inputs[0].ranks[-1] > 5 or spec.family == "global_pool":
        dims = 2
    numbers = np.random.default_rng(0).standard_normal(SHAPES[dims])
    x = torch.from_numpy(numbers).to(getattr(torch, dtype))
    channels = x.shape[1]
    fields: dict[str, Any] = {"dtype": dtype, "input": payload(x), **options}
    if spec.many:
        fields.pop("input")
        fields["inputs"] = (payload(x), payload(x[:1]))
    if spec.family == "conv":
        weight = torch.ones(8, channels // options.get("groups", 1), *[3] * dims, dtype=x.dtype)
        hwio = options["weight_layout"] == "hwio"
        fields["weight"] = payload(weight.movedim((1, 0), (-2, -1)) if hwio else weight)
    if spec.family == "max_unpool":
        pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
        output, indices = pool(x, 2, return_indices=True)
        fields |= {"input": payload(output), "indices": payload(indices), "index_base": "plane"}
        fields.pop("storage_order", None)
    if spec.name == "group_norm":
        fields["num_groups"] = 4
    if "running_mean" in options:
        fields |= {
            name: payload(torch.ones(channels, dtype=x.dtype))
            for name in ("running_mean", "running_var")
        }
    if backward:
        fields[spec.gradient] = "ones"
    return compute_model(spec).model_validate(fields)


Measure = Callable[[Callable[[], object]], float]


def processor_ms(work: Callable[[], object]) -> float:
    """Processor time as a ratio to this machine's own pace: for an idle machine."""
    return best_ms(work) / pace()


MEASURE = pytest.mark.parametrize("ms", [counted_ms, pytest.param(processor_ms, marks=MEASURES)])


def check_bound(engine: Engine, spec: LayerSpec, call: Any, ms: Measure) -> None:
    """The estimate is no less than what is measured, in the best of a few tries."""
    plan, estimate = engine.plan(spec, call)
    bound = estimate.ms + SMALLEST_MS
    for _ in range(4):
        ratio = ms(partial(engine.run, spec, call, plan)) / bound
        if ratio <= 1:
            break
    assert ratio <= 1, f"{ratio:.2f} of the bound"


@MEASURE
@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_the_cost_rule_bounds_the_time(engine: Engine, spec: LayerSpec, ms: Measure) -> None:
    for options in OPTIONS[spec.family]:
        for dtype in ("float32", "float64"):
            for backward in (False, True):
                call = large_call(spec, options, dtype, backward=backward)
                check_bound(engine, spec, call, ms)


def in_passes(tensors: Tensors, plan: Plan) -> Tensors:
    """ReLU in many passes over the whole."""
    output = tensors["input"]
    for _ in range(200):
        output = torch.relu(output)
    return {"output": output}


def in_pieces(tensors: Tensors, plan: Plan) -> Tensors:
    """ReLU in many small pieces."""
    x = tensors["input"]
    pieces = [torch.relu(piece) for piece in x.flatten().split(16)]
    return {"output": torch.cat(pieces).view_as(x)}


def in_python(tensors: Tensors, plan: Plan) -> Tensors:
    """ReLU, and a number at a time in Python."""
    sum(abs(number) for number in range(tensors["input"].numel()))
    return {"output": torch.relu(tensors["input"])}


@pytest.mark.parametrize("run", [in_passes, in_pieces, in_python])
def test_work_that_no_plan_counts_is_found(
    engine: Engine, run: Callable[[Tensors, Plan], Tensors]
) -> None:
    spec = replace(LAYERS["relu"], run=run)
    call = large_call(spec, {}, "float32", backward=False)
    with pytest.raises(AssertionError, match="of the bound"):
        check_bound(engine, spec, call, counted_ms)


@MEASURE
def test_the_bound_is_not_out_of_all_proportion(engine: Engine, ms: Measure) -> None:
    spec = LAYERS["max_pool2d"]
    call = large_call(spec, {"kernel_size": 7, "stride": 1}, "float32", backward=False)
    plan, estimate = engine.plan(spec, call)
    assert ms(lambda: engine.run(spec, call, plan)) > estimate.ms / 50


MANY = 4000


def long_loops(many: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Requests that are worked off in so many pieces, by what the pieces are."""
    channels = torch.ones(1, many, 1)
    tied = {"input": channels.view(1, 1, many), "tie": "split"}
    return {
        "groups": (
            "conv1d",
            {"input": channels, "weight": channels.view(many, 1, 1), "groups": many},
        ),
        "taps": ("max_pool1d", {**tied, "kernel_size": many}),
        "tied windows": (
            "max_pool1d",
            {**tied, "kernel_size": many - many // 40, "stride": 1},
        ),
        "sums": (
            "avg_pool1d",
            {
                "input": torch.ones(1, 1, many // 10 - 1),
                "kernel_size": many // 20,
                "dilation": 2,
            },
        ),
        "samples": (
            "conv2d",
            {
                "input": torch.ones(many, 1, 1, 1),
                "weight": torch.ones(1, 1, 1, 1),
                "dilation": 2,
                "dtype": "float64",
            },
        ),
    }


LONG_LOOPS = long_loops(MANY)


@MEASURE
@pytest.mark.parametrize("case", LONG_LOOPS)
def test_what_is_done_piece_by_piece_counts(engine: Engine, case: str, ms: Measure) -> None:
    name, body = LONG_LOOPS[case]
    spec = LAYERS[name]
    for fields in (body, {**body, "grad_output": "ones"}):
        call = call_of(spec, fields)
        check_bound(engine, spec, call, ms)
        plan, estimate = engine.plan(spec, call)
        if ms is processor_ms:
            assert ms(partial(engine.run, spec, call, plan)) > estimate.ms / 10


@pytest.mark.parametrize("case", LONG_LOOPS)
def test_twice_the_pieces_cost_about_twice_as_much(engine: Engine, case: str) -> None:
    """Also where the loop is torch's own, whose work nobody can count."""
    cost_ms = []
    for many in (MANY // 2, MANY):
        name, body = long_loops(many)[case]
        cost_ms.append(engine.plan(LAYERS[name], call_of(LAYERS[name], body))[1].ms)
    assert 1.7 < cost_ms[1] / cost_ms[0] < 4.1


EXPLAINED: dict[str, dict[str, Any]] = {
    "max_pool1d": {"input": torch.ones(1, 1, MANY), "kernel_size": 1},
    "adaptive_avg_pool1d": {"input": torch.ones(1, 1, 1), "output_size": 10**6},
}


@MEASURE
@pytest.mark.parametrize("name", EXPLAINED)
def test_explaining_counts(engine: Engine, name: str, ms: Measure) -> None:
    spec = LAYERS[name]
    call = call_of(spec, {**EXPLAINED[name], "explain": True})
    plan, estimate = engine.plan(spec, call)
    assert ms(partial(engine.run, spec, call, plan)) <= estimate.ms
    assert estimate.ms > INLINE_MS


def test_little_to_explain_takes_little(engine: Engine) -> None:
    call = call_of(LAYERS["relu"], {"input": [1.0], "explain": True})
    assert engine.plan(LAYERS["relu"], call)[1].ms < 10
