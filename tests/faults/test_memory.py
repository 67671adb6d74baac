"""The plan's bytes bound what an emulation takes at its peak, in a process per fault and case."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from app.compute import Engine
from app.errors import CostLimit
from app.faults import FAULTS, Fault
from app.layers import LAYERS, LayerSpec, compute_model
from tests._soak import HANGS_S
from tests.compute.test_memory import CLEAR, MIB, SLACK_BYTES, filled, resident_bytes
from tests.conftest import LIMITS

ONNX = {"convention": "onnx"}
SIDE = 500
WINDOWS: dict[str, Any] = {"kernel_size": [3, 2], "stride": 1, "padding": [[1, 2], [0, 1]], **ONNX}
CASES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("max_pool2d", {"input": (1, 1, SIDE, SIDE)}, {**WINDOWS, "return_indices": True}),
    ("max_pool1d", {"input": (1, 1, 300_000)}, {"kernel_size": 5, "dilation": 2, "padding": 2}),
    ("max_pool2d", {"input": (1, 4, SIDE, SIDE)}, {"kernel_size": 4, "stride": 4, "padding": 1}),
    ("avg_pool2d", {"input": (1, 1, SIDE, SIDE)}, {**WINDOWS, "count_include_pad": True}),
    ("avg_pool2d", {"input": (1, 1, SIDE, SIDE)}, {**WINDOWS, "dilation": 2}),
    ("lp_pool2d", {"input": (1, 1, SIDE, SIDE)}, {**WINDOWS, "dilation": 2}),
    ("adaptive_max_pool2d", {"input": (1, 1, SIDE, SIDE)}, {"output_size": SIDE - 1}),
    ("adaptive_avg_pool2d", {"input": (1, 1, SIDE, SIDE)}, {"output_size": SIDE - 1}),
    ("adaptive_avg_pool1d", {"input": (1, 5_000, 101)}, {"output_size": 2}),
    ("global_max_pool", {"input": (1, 4, SIDE, SIDE)}, {}),
    ("global_avg_pool", {"input": (1, 8_000, 10, 10)}, {}),
    ("batch_norm2d", {"input": (2, 4, 300, 300)}, {"training": True}),
    ("sync_batch_norm", {"inputs": ((2, 4, 200, 200),) * 2}, {"training": True}),
    ("group_norm", {"input": (2, 4, 300, 300)}, {"num_groups": 2}),
    ("instance_norm", {"input": (2, 4, 300, 300)}, {}),
    ("layer_norm", {"input": (800, 1000)}, {"axis": -1}),
    ("rms_norm", {"input": (800, 1000)}, {"axis": -1}),
    ("batch_norm1d", {"input": (100, 8_000)}, {"training": True}),
    ("group_norm", {"input": (8_000, 10, 10)}, {"num_groups": 1}),
    ("conv2d", {"input": (1, 4, 300, 300), "weight": (4, 4, 3, 2)}, {"padding": [[1, 2], [0, 1]]}),
    ("conv1d", {"input": (1, 4, 100_000), "weight": (4, 4, 3)}, {"dilation": 2, "padding": 2}),
    ("relu", {"input": (1_000_000,)}, {}),
    (
        "max_unpool1d",
        {"input": (1, 1, 100_000), "indices": (1, 1, 100_000)},
        {"kernel_size": 2},
    ),
)


def requests() -> Iterator[tuple[Fault, LayerSpec, dict[str, Any]]]:
    """Every fault with every case that it applies to, once for each layer and function."""
    for fault in FAULTS:
        for name, shapes, options in CASES:
            spec = LAYERS[name]
            if spec.family in fault.families:
                tensors = {field: filled(field, shape) for field, shape in shapes.items()}
                dtype = {} if fault.in_dtype else {"compute_dtype": "float64"}
                yield fault, spec, {**tensors, **options, **dtype, spec.gradient: "ones"}


def peak_bytes(
    engine: Engine, fault: Fault, spec: LayerSpec, body: dict[str, Any]
) -> tuple[int, int]:
    """What one emulation adds to this process at its peak, and what was estimated."""
    call = compute_model(spec).model_validate(body)
    plan, _ = engine.plan(spec, call)
    built = fault.layer(spec)
    if built is spec or not fault.applies(plan):
        return 0, 0
    try:
        plan, estimate = engine.plan(built, call)
    except CostLimit:  # sums of many thousands of terms, one after the other
        return 0, 0
    assert engine.run(built, call, plan)
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")
    before = resident_bytes("VmRSS")
    assert engine.run(built, call, plan)
    return resident_bytes("VmHWM") - before, estimate.bytes


def check_cases() -> None:
    """The child: forks for each request, so that none finds memory that another left."""
    torch.set_num_threads(1)
    engine = Engine("cpu", LIMITS)
    engine.warm_up()
    for fault, spec, body in requests():
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            assert not status, (fault.name, spec.name)
            continue
        peak, estimated = peak_bytes(engine, fault, spec, body)
        if peak > estimated + SLACK_BYTES:
            numbers = f"{peak // MIB} MiB, estimated {estimated // MIB}"
            print(f"{fault.name} of {spec.name}: {numbers}", flush=True)
        os._exit(0)


@pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux's peak of a process")
@pytest.mark.slow
@pytest.mark.timeout(HANGS_S)
def test_the_bytes_bound_the_memory_of_every_fault() -> None:
    child = subprocess.run(
        [sys.executable, "-c", "from tests.faults.test_memory import check_cases; check_cases()"],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_S,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # What is freed leaves the process.
    )
    assert (child.returncode, child.stdout) == (0, ""), child.stderr[-2000:]
