"""Scenarios of normalisations: what `check` alone emulates."""

from typing import Any

import numpy as np

from tests.oracle._bodies import DIMS, norm
from tests.oracle._numbers import normal
from tests.oracle._request import Array
from tests.oracle._scenario import Scenario, named

OUT = ("output",)
BACK = ("output", "gradients.input")
ALL = ("output", "gradients.input", "gradients.weight", "gradients.bias")
RUNNING = ("output", "running_stats.mean", "running_stats.var")
LARGE = np.arange(10000.0, 10004.0)
"""A large mean, small differences: E[x^2] - E[x]^2 loses everything in float32."""


def rows(**more: Any) -> dict[str, Any]:
    """A layer or rms norm of rows whose variance is small enough for eps to show."""
    body = {"input": normal(4, 6, seed=3) / 128, "weight": normal(6, seed=1), "axis": -1,
            "grad_output": normal(4, 6, seed=2), "eps": 1e-4}  # fmt: skip
    return {**body, **more}


def large(*shape: int) -> Array:
    return np.resize(LARGE, shape)


BATCH: tuple[Scenario, ...] = tuple(
    named(f"batch_norm{d}d {fault}", f"batch_norm{d}d", norm(d) | more, fault=fault, send=send)
    for d in DIMS
    for fault, more, send in (
        ("variance-unbiased-output", {}, BACK),
        ("eps-outside-root", {"eps": 1e-3}, ALL),
        ("eps-as-floor", {"eps": 1e-2}, ALL),
        ("eps-missing", {"eps": 1e-3}, ALL),
        ("inverse-std-as-variance", {}, ALL),
        ("running-std", {}, RUNNING),
        ("running-not-updated", {}, RUNNING),
        ("running-updated-twice", {}, RUNNING),
        ("statistics-held-constant", {}, ALL),
        ("mean-term-missing", {}, ALL),
        ("variance-term-missing", {}, ALL),
        ("statistics-per-sample", {}, BACK),
        ("statistics-of-all-channels", {}, BACK),
        ("affine-swapped", {}, BACK),
        ("loss-mean", {}, ALL),
    )
)
EVALUATING: tuple[Scenario, ...] = tuple(
    named(f"batch_norm2d in evaluation {fault}", "batch_norm2d",
          norm(2, training=False, eps=1e-2, running_var=abs(normal(4, seed=8)) / 256),
          fault=fault, send=send)
    for fault, send in (
        ("eps-outside-root", ALL), ("eps-missing", ALL), ("affine-swapped", BACK),
        ("loss-mean", ALL),
    )
)  # fmt: skip
GROUPED: tuple[Scenario, ...] = tuple(
    named(f"{layer} {d}d {fault}", layer,
          norm(d, running=False) | more | ({"num_groups": 2} if layer == "group_norm" else {}),
          fault=fault, send=send)
    for layer in ("instance_norm", "group_norm")
    for d in DIMS
    for fault, more, send in (
        ("variance-unbiased-output", {}, BACK),
        ("eps-outside-root", {"eps": 1e-3}, ALL),
        ("eps-as-floor", {"eps": 1e-2}, ALL),
        ("eps-missing", {"eps": 1e-3}, ALL),
        ("statistics-held-constant", {}, ALL),
        ("mean-term-missing", {}, ALL),
        ("variance-term-missing", {}, ALL),
        ("affine-swapped", {}, BACK),
        ("loss-mean", {}, ALL),
        *((("groups-interleaved", {}, ALL),) if layer == "group_norm" else
          (("statistics-of-all-channels", {}, BACK),)),
    )
)  # fmt: skip
EVERY_ROW: tuple[tuple[str, dict[str, Any]], ...] = (
    ("eps-outside-root", {}), ("eps-as-floor", {"eps": 6e-5}), ("eps-missing", {}),
    ("statistics-held-constant", {}), ("loss-mean", {}),
)  # fmt: skip
CENTRED_ROW: tuple[tuple[str, dict[str, Any]], ...] = (
    ("variance-unbiased-output", {}), ("mean-term-missing", {}), ("variance-term-missing", {}),
    ("affine-swapped", {"bias": normal(6, seed=9)}),
)  # fmt: skip
ROWWISE: tuple[Scenario, ...] = tuple(
    named(f"{layer} {fault}", layer, rows() | more, fault=fault)
    for layer, cases in (("layer_norm", EVERY_ROW + CENTRED_ROW), ("rms_norm", EVERY_ROW))
    for fault, more in cases
)
FAST: tuple[Scenario, ...] = (
    named("batch_norm1d variance-fast", "batch_norm1d",
          {"input": large(1, 2, 4), "training": True}, fault="variance-fast", send=OUT),
    named("batch_norm2d variance-fast", "batch_norm2d",
          {"input": large(2, 2, 2, 4), "training": True}, fault="variance-fast", send=OUT),
    named("instance_norm variance-fast", "instance_norm", {"input": large(1, 2, 2, 2)},
          fault="variance-fast", send=OUT),
    named("group_norm variance-fast", "group_norm", {"input": large(1, 4, 2), "num_groups": 2},
          fault="variance-fast", send=OUT),
    named("layer_norm variance-fast", "layer_norm", {"input": large(3, 4), "axis": -1},
          fault="variance-fast", send=OUT),
    named("layer_norm variance-fast bfloat16", "layer_norm",
          {"input": np.array([[256.0, 258.0, 260.0, 262.0]]), "axis": -1, "dtype": "bfloat16"},
          fault="variance-fast", send=OUT),
    named("layer_norm variance-fast float16", "layer_norm",
          {"input": np.array([[100.0, 101.0, 102.0, 103.0]]), "axis": -1, "dtype": "float16"},
          fault="variance-fast", send=OUT),
)  # fmt: skip
REPLICAS: dict[str, Any] = {
    "inputs": [normal(2, 4, 3), normal(3, 4, 3, seed=1)], "training": True,
    "grad_outputs": [normal(2, 4, 3, seed=2), normal(3, 4, 3, seed=3)],
}  # fmt: skip
SYNCHRONISED: tuple[Scenario, ...] = tuple(
    named(f"sync_batch_norm {fault}", "sync_batch_norm", REPLICAS | more, fault=fault, send=send)
    for fault, more, send in (
        ("replicas-not-synchronized", {}, ("outputs.0", "outputs.1")),
        ("replica-gradients-averaged", {}, ("gradients.weight", "gradients.bias")),
        ("replicas-unweighted", {}, ("batch_stats.mean",)),
        ("eps-outside-root", {"eps": 1e-2}, ()), ("variance-term-missing", {}, ()),
        ("running-not-updated", {}, ()),
    )
)  # fmt: skip
OUTSIDE: tuple[Scenario, ...] = tuple(
    named(f"{layer} variance-unbiased-output and eps outside", layer, body,
          fault="variance-unbiased-output:eps outside", send=BACK)
    for layer, body in (
        ("layer_norm", rows()),
        ("instance_norm", norm(2, running=False, eps=1e-2)),
        ("batch_norm2d", norm(2, eps=1e-2)),
    )
)  # fmt: skip
ROWS = (*OUTSIDE, *SYNCHRONISED, *BATCH, *EVALUATING, *GROUPED, *ROWWISE, *FAST)
