"""The plan's bytes bound what a run takes at its peak, in a process a case."""

import ctypes
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.compute import Engine
from app.layers import LAYERS, compute_model
from tests._soak import HANGS_S
from tests.compute.test_cost import payload
from tests.conftest import LIMITS

MIB = 1 << 20
SLACK_BYTES = 8 * MIB
"""The allocator's own, and what Python keeps."""
LOOSEST = 5
MODES: tuple[dict[str, Any], ...] = (
    {},
    {"grad_output": "ones"},
    {"explain": True},
)
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RUNNING = {"running_mean": (4,), "running_var": (4,)}
IMAGES, LAST = (2, 4, 1024, 1024), (2, 1024, 1024, 4)
REPLICAS = ((2, 4, 512, 512),) * 4
ONNX = {"index_base": "onnx", "storage_order": "column"}
BY_HAND = {"stride": 1, "padding": "same_upper"}
EMPTY = {"kernel_size": 2, "dilation": 1000, "padding": [[1000, 999]], "stride": 1}
"""Of 1000 elements; one window holds none."""

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "relu": ("relu", {"input": (8 * MIB,)}, {}),
    "in halves": (
        "adaptive_avg_pool1d",
        {"input": (1, 1, 2)},
        {"output_size": 16 * MIB, "dtype": "float16"},
    ),
    "layer_norm": ("layer_norm", {"input": (2048, 4096)}, {"axis": -1}),
    "rms_norm": ("rms_norm", {"input": (2048, 4096)}, {"axis": -1}),
    "rms_norm of long rows": (
        "rms_norm",
        {"input": (1, 4 * MIB), "weight": (4 * MIB,)},
        {"axis": -1, "weight_offset": 1},
    ),
    "instance_norm": ("instance_norm", {"input": LAST}, {"layout": "channels_last"}),
    "group_norm": ("group_norm", {"input": IMAGES}, {"num_groups": 2}),
    "batch_norm": ("batch_norm2d", {"input": LAST}, {"training": True, "layout": "channels_last"}),
    "batch_norm without eps": (
        "batch_norm2d",
        {"input": IMAGES},
        {"training": True, "eps": 0, "convention": "onnx"},
    ),
    "batch_norm running": ("batch_norm2d", {"input": IMAGES, **RUNNING}, {"training": False}),
    "sync_batch_norm": ("sync_batch_norm", {"inputs": REPLICAS}, {"training": True}),
    "sync_batch_norm running": (
        "sync_batch_norm",
        {"inputs": REPLICAS, **RUNNING},
        {"training": False},
    ),
    "max_pool": ("max_pool2d", {"input": (1, 4, 2048, 2048)}, {"kernel_size": 2}),
    "max_pool columns": (
        "max_pool2d",
        {"input": (1, 1, 2000, 2000)},
        {"kernel_size": 1, "return_indices": True, **ONNX},
    ),
    "max_pool by hand": (
        "max_pool1d",
        {"input": (1, 1, 2 * MIB)},
        {"kernel_size": 2, "nan": "ignore", "return_indices": True, **BY_HAND},
    ),
    "max_pool without elements": (
        "max_pool1d",
        {"input": (1, 900, 1000)},
        {**EMPTY, "empty_window": "lowest", "return_indices": True},
    ),
    "max_pool ties": (
        "max_pool2d",
        {"input": (1, 1, 1400, 1400)},
        {"kernel_size": 2, "stride": 1, "tie": "split"},
    ),
    "avg_pool": ("avg_pool2d", {"input": (1, 1, 3000, 3000)}, {"kernel_size": 3, "stride": 1}),
    "avg_pool dilated": (
        "avg_pool2d",
        {"input": (1, 1, 1500, 1500)},
        {"kernel_size": 16, "dilation": 2, "stride": 1},
    ),
    "avg_pool by hand": ("avg_pool1d", {"input": (1, 1, 4 * MIB)}, {"kernel_size": 2, **BY_HAND}),
    "avg_pool without elements": (
        "avg_pool1d",
        {"input": (1, 2000, 1000)},
        {**EMPTY, "empty_window": "zero", "count_include_pad": False},
    ),
    "lp_pool": ("lp_pool2d", {"input": (1, 1, 2000, 2000)}, {"kernel_size": 1, "norm_type": 2.5}),
    "lp_pool by hand": (
        "lp_pool2d",
        {"input": (1, 1, 1500, 1500)},
        {"kernel_size": 5, "dilation": 2, "stride": 1, "lp_abs": True},
    ),
    "adaptive_max_pool": ("adaptive_max_pool2d", {"input": (1, 1, 2, 2)}, {"output_size": 2500}),
    "adaptive_avg_pool": ("adaptive_avg_pool1d", {"input": (1, 1, 2)}, {"output_size": 8 * MIB}),
    "global_max_pool": ("global_max_pool", {"input": IMAGES}, {}),
    "in float64": ("global_max_pool", {"input": IMAGES}, {"compute_dtype": "float64"}),
    "global_avg_pool": ("global_avg_pool", {"input": LAST}, {"layout": "channels_last"}),
    "max_unpool": (
        "max_unpool2d",
        {"input": (1, 1, 700, 700), "indices": (1, 1, 700, 700)},
        {"kernel_size": 2, **ONNX},
    ),
    "conv": ("conv2d", {"input": (1, 1, 1500, 1500), "weight": (4, 1, 3, 3)}, {}),
    "conv of channels": ("conv2d", {"input": (1, 8, 700, 700), "weight": (8, 8, 3, 3)}, {}),
    "conv dilated": (
        "conv2d",
        {"input": (1, 8, 500, 400), "weight": (8, 8, 2, 1)},
        {"dilation": [250, 1]},
    ),
    "conv of a large weight": ("conv2d", {"input": (1, 8, 8, 8), "weight": (65536, 8, 3, 3)}, {}),
    "conv of a large hwio weight": (
        "conv2d",
        {"input": (1, 512, 8, 8), "weight": (3, 3, 512, 1024)},
        {"weight_layout": "hwio"},
    ),
    "conv3d": ("conv3d", {"input": (1, 1, 120, 120, 120), "weight": (2, 1, 3, 3, 3)}, {}),
}


def filled(name: str, shape: Any) -> Any:
    """Payloads of these shapes; indices are 0."""
    if name == "inputs":
        return tuple(filled("input", one) for one in shape)
    if name == "indices":
        return payload(torch.zeros(shape, dtype=torch.int64))
    return payload(torch.from_numpy(np.random.default_rng(0).random(shape, dtype=np.float32)))


def resident_bytes(field: str) -> int:
    """This process's memory, now (VmRSS) or at its peak (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    assert found
    return int(found[1]) * 1024


def peak_bytes(engine: Engine, case: str, more: dict[str, Any]) -> tuple[int, int]:
    """What one run adds to this process at its peak, and what was estimated."""
    name, shapes, options = CASES[case]
    spec = LAYERS[name]
    tensors = {field: filled(field, shape) for field, shape in shapes.items()}
    if "grad_output" in more:
        more = {spec.gradient: more["grad_output"]}
    call = compute_model(spec).model_validate({**tensors, **options, **more})
    plan, estimate = engine.plan(spec, call)
    # Code is loaded page by page when it first runs, and counts as memory.
    assert engine.run(spec, call, plan)
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")
    before = resident_bytes("VmRSS")
    assert engine.run(spec, call, plan)
    return resident_bytes("VmHWM") - before, estimate.bytes


def check_cases() -> None:
    """The child: forks for each case and mode, so that none finds memory that another left."""
    engine = Engine("cpu", LIMITS)
    engine.warm_up()
    for case, more in itertools.product(CASES, MODES):
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            assert not status
            continue
        peak, estimated = peak_bytes(engine, case, more)
        most, least = estimated + SLACK_BYTES, estimated / LOOSEST - SLACK_BYTES
        if not least <= peak <= most:
            print(f"{case} {more}: {peak // MIB} MiB, estimated {estimated // MIB}", flush=True)
        os._exit(0)


@pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux's peak of a process")
@pytest.mark.slow
@pytest.mark.timeout(HANGS_S)
def test_the_bytes_bound_the_memory() -> None:
    child = subprocess.run(
        [sys.executable, "-c", "from tests.compute.test_memory import check_cases; check_cases()"],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_S,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # What is freed leaves the process.
    )
    assert (child.returncode, child.stdout) == (0, ""), child.stderr[-2000:]


def test_every_family_is_measured() -> None:
    measured = {LAYERS[name].family for name, _, _ in CASES.values()}
    assert measured == {spec.family for spec in LAYERS.values()}
