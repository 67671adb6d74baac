"""A chain's bytes bound what it takes at its peak, in a process a case."""

import ctypes
import itertools
import os
import subprocess
import sys
from typing import Any

import pytest

from app.compute import Engine, plan_chain, run_chain
from app.layers import LAYERS, compute_model
from tests._soak import HANGS_S
from tests.compute.test_memory import CLEAR, LOOSEST, MIB, SLACK_BYTES, filled, resident_bytes
from tests.conftest import LIMITS

Layer = tuple[str, dict[str, Any], dict[str, Any]]
IMAGE = (2, 4, 512, 512)
NORM: Layer = ("batch_norm2d", {"training": True}, {})
RELU: Layer = ("relu", {}, {})
CONV: Layer = ("conv2d", {"padding": 1}, {"weight": (8, 4, 3, 3)})
POOL: Layer = ("max_pool2d", {"kernel_size": 2}, {})
DOUBLE: dict[str, Any] = {"compute_dtype": "float64"}
CHAINS: dict[str, tuple[tuple[int, ...], dict[str, Any], list[Any]]] = {
    "activations": (IMAGE, {}, [RELU] * 8),
    "a block": (IMAGE, {}, [CONV, NORM, RELU, POOL, NORM, RELU]),
    "channels last": (
        (2, 512, 512, 4),
        {"layout": "channels_last"},
        [CONV, NORM, RELU, ("avg_pool2d", {"kernel_size": 2}, {})],
    ),
    "in halves": (IMAGE, {"dtype": "float16"}, [RELU, NORM, POOL, RELU]),
    "in doubles": (IMAGE, DOUBLE, [NORM, RELU, ("layer_norm", {"axis": -1}, {})]),
    "down and up": (
        IMAGE,
        {},
        [("adaptive_avg_pool2d", {"output_size": size}, {}) for size in (4, 1000, 4, 800)],
    ),
    "kept": (IMAGE, {"kept": True}, [RELU, NORM, RELU, POOL]),
}
MODES: tuple[dict[str, Any], ...] = ({}, {"grad_output": "ones"})


def peak_bytes(engine: Engine, case: str, more: dict[str, Any]) -> tuple[int, int]:
    """What one run adds to this process at its peak, and what was estimated."""
    shape, common, layers = CHAINS[case]
    common = {name: value for name, value in common.items() if name != "kept"}
    image = filled("input", shape)
    dtype = common.get("dtype", "float32")
    if dtype != "float32":
        image = image._replace(dtype=dtype, data=memoryview(bytearray(image.data.nbytes // 2)))
    read = []
    for name, options, tensors in layers:
        own = {field: filled(field, of) for field, of in tensors.items()}
        fields = {"input": image, **common, **options, **own, **more}
        if "layout" in common and name == "relu":
            fields.pop("layout")
        read.append((LAYERS[name], compute_model(LAYERS[name]).model_validate(fields)))
    kept = frozenset(range(len(read)) if "kept" in CHAINS[case][1] else ())
    chain = plan_chain(engine, read, kept, explains=False)
    # Code is loaded page by page when it first runs, and counts as memory.
    assert run_chain(engine, chain)
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")
    before = resident_bytes("VmRSS")
    assert run_chain(engine, chain)
    return resident_bytes("VmHWM") - before, chain.estimate.bytes


def check_cases() -> None:
    """The child: forks for each case and mode, so that none finds memory that another left."""
    engine = Engine("cpu", LIMITS)
    engine.warm_up()
    for case, more in itertools.product(CHAINS, MODES):
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            assert not status, f"{case} {more}"
            continue
        peak, estimated = peak_bytes(engine, case, more)
        told = f"{case} {more}: {peak // MIB} MiB, estimated {estimated // MIB}"
        most, least = estimated + SLACK_BYTES, estimated / LOOSEST - SLACK_BYTES
        if not least <= peak <= most or os.environ.get("TOLD"):
            print(told, flush=True)
        os._exit(0)


@pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux's peak of a process")
@pytest.mark.slow
@pytest.mark.timeout(HANGS_S)
def test_the_bytes_bound_the_memory_of_chains() -> None:
    code = "from tests.compute.test_chain_memory import check_cases; check_cases()"
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_S,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # What is freed leaves the process.
    )
    assert (child.returncode, child.stdout) == (0, ""), child.stderr[-2000:]
