"""The same bytes in other processes, with other thread counts and other vector instructions."""

import hashlib
import os
import subprocess
import sys

import pytest

SETS = """
import hashlib, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from app.codecs import CODECS, JSON
from app.compute import Engine
from app.layers import LAYERS
from app.operations.vectors import build, flat
from app.settings import Settings

engine = Engine("cpu", Settings().limits)
for layer, dtype in (pair.split(":") for pair in sys.argv[2:]):
    for case in build(engine, LAYERS[layer], count=64, dtype=dtype):
        text = b"".join(CODECS[JSON].encode(flat(case), encoding="flat"))
        print(layer, dtype, case.name, hashlib.sha256(text).hexdigest())
"""
ROUNDED = [
    "batch_norm1d:float32", "sync_batch_norm:float32", "group_norm:float32", "layer_norm:bfloat16",
    "instance_norm:float16", "rms_norm:float32", "lp_pool2d:float32", "conv2d:float32",
    "avg_pool2d:bfloat16", "adaptive_avg_pool1d:float32",
]  # fmt: skip
IN_FLOAT64 = ["max_pool2d:float64", "avg_pool2d:float64", "conv1d:float64", "relu:float64"]
"""Layers whose float64 results are the same everywhere too."""


def printed(threads: int, capability: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SETS, str(threads), *ROUNDED, *IN_FLOAT64],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_threads_and_instructions_change_no_byte() -> None:
    first = printed(1, "default")
    assert len(first) == 64 * (len(ROUNDED) + len(IN_FLOAT64))
    assert printed(4, "avx2") == first


def test_the_numbers_of_seed_zero_are_pinned() -> None:
    """A release that changes them changes everyone's files: raise FORMAT then."""
    from app.operations.vectors._draw import Draw

    draw = Draw(0, ("max_pool2d", "ties"), 0, "float32", 2)
    text = repr([draw.order(5).tolist(), draw.numbers(4).tolist(), draw.small(4).tolist()])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "db651abd67cb4470"
