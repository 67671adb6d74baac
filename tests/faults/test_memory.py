"""The plan's bytes bound what an emulation takes at its peak, in a process of its own."""

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from app.compute import Engine
from app.faults import FAULTS, Fault
from app.layers import LAYERS, LayerSpec, compute_model
from tests._soak import HANGS_S
from tests.compute.test_memory import CLEAR, MIB, filled, resident_bytes
from tests.conftest import LIMITS

ONNX = {"convention": "onnx"}
SLACK_BYTES = 2 * MIB
"""The allocator's own, and what Python keeps."""
SIDE = 400
IMAGE = (1, 4, SIDE, SIDE)
WINDOWS: dict[str, Any] = {"kernel_size": [3, 2], "stride": 1, "padding": [[1, 2], [0, 1]], **ONNX}
Case = tuple[str, dict[str, Any], dict[str, Any]]
CASES: tuple[Case, ...] = (
    ("max_pool2d", {"input": IMAGE}, {**WINDOWS, "return_indices": True}),
    ("max_pool2d", {"input": IMAGE}, {"kernel_size": 3, "padding": 1, "dilation": 2, "stride": 1}),
    ("max_pool2d", {"input": (1, 4, 401, 401)}, {"kernel_size": 2, "ceil_mode": True}),
    ("avg_pool2d", {"input": IMAGE}, {**WINDOWS, "dilation": 2, "count_include_pad": True}),
    ("lp_pool2d", {"input": IMAGE}, {**WINDOWS, "dilation": 2}),
    ("adaptive_max_pool2d", {"input": IMAGE}, {"output_size": SIDE - 1, "return_indices": True}),
    ("adaptive_avg_pool2d", {"input": IMAGE}, {"output_size": SIDE - 1}),
    ("global_max_pool", {"input": (1, 4, SIDE, SIDE)}, {}),
    ("global_avg_pool", {"input": (1, 5_000, 10, 10)}, {}),
    ("batch_norm1d", {"input": (100, 5_000)}, {"training": True}),
    ("sync_batch_norm", {"inputs": ((100, 2_500),) * 2}, {"training": True}),
    ("group_norm", {"input": (4_000, 10, 10)}, {"num_groups": 1}),
    ("group_norm", {"input": (4_000, 10, 10)}, {"num_groups": 2}),
    ("layer_norm", {"input": (5_000, 100)}, {"axis": -1}),
    ("rms_norm", {"input": (5_000, 100)}, {"axis": -1}),
    ("conv2d", {"input": (1, 4, 200, 200), "weight": (4, 4, 3, 3)}, {"padding": [[1, 2], [0, 1]]}),
    ("conv2d", {"input": (1, 4, 200, 200), "weight": (4, 4, 3, 3)}, {"padding": 2, "dilation": 2}),
    ("relu", {"input": (400_000,)}, {}),
    ("max_unpool1d", {"input": (1, 1, 50_000), "indices": (1, 1, 50_000)}, {"kernel_size": 2}),
)
"""Small enough that a run takes tens of milliseconds, and large enough to show beside the slack."""
MORE: tuple[tuple[str, Case], ...] = (
    (
        "adaptive-end-floored",
        ("adaptive_avg_pool1d", {"input": (1, 2_000, 101)}, {"output_size": 2}),
    ),
    (
        "overlap-overwritten",
        ("max_pool2d", {"input": IMAGE}, {"kernel_size": 3, "stride": 1, "tie": "split"}),
    ),
    ("statistics-per-sample", ("batch_norm2d", {"input": (2, 4, 200, 200)}, {"training": True})),
    (
        "kernel-flipped",
        (
            "conv2d",
            {"input": (1, 128, 8, 8), "weight": (3, 3, 128, 1_024)},
            {"weight_layout": "hwio"},
        ),
    ),
)
"""Cases for which a fault takes memory in another way than for the others."""


def mechanism(layer: LayerSpec) -> tuple[str, ...]:
    """What runs: faults with the same function, and the same functions in it, take the same."""
    run: Any = layer.run
    run = getattr(run, "func", run)
    cells = (cell.cell_contents for cell in run.__closure__ or ())
    return (run.__qualname__, *(one.__qualname__ for one in cells if hasattr(one, "__qualname__")))


def requests(engine: Engine) -> Iterator[tuple[Fault, LayerSpec, Any]]:
    """Each mechanism once for each layer, on the first case that it applies to, and `MORE`."""
    payloads = cache(filled)
    seen = set()
    pairs = itertools.product(FAULTS, CASES)
    more = ((f, case) for f in FAULTS for name, case in MORE if f.name == name)
    for number, (fault, (name, shapes, options)) in enumerate(itertools.chain(pairs, more)):
        spec = LAYERS[name]
        built = fault.layer(spec) if spec.family in fault.families else spec
        key = (name, *mechanism(built), number * (number >= len(FAULTS) * len(CASES)))
        if built is spec or key in seen:
            continue
        tensors = {field: payloads(field, shape) for field, shape in shapes.items()}
        dtype = {"compute_dtype": "float64"}
        if fault.in_dtype:
            dtype = {"dtype": "float16" if fault.only_halves else "float32"}
        body = {**tensors, **options, **dtype, spec.gradient: "ones"}
        call = compute_model(spec).model_validate(body)
        if fault.applies(engine.plan(spec, call)[0]):
            seen.add(key)
            yield fault, spec, call


def peak_bytes(engine: Engine, fault: Fault, spec: LayerSpec, call: Any) -> tuple[int, int]:
    """What a second emulation adds to this process at its peak, and what was estimated."""
    built = fault.layer(spec)
    plan, estimate = engine.plan(built, call)
    # Code is loaded page by page when it first runs, and counts as memory.
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
    for fault, spec, call in requests(engine):
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            assert not status, (fault.name, spec.name)
            continue
        peak, estimated = peak_bytes(engine, fault, spec, call)
        if peak > estimated + SLACK_BYTES:
            numbers = f"{peak / MIB:.1f} MiB, estimated {estimated / MIB:.1f}"
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
