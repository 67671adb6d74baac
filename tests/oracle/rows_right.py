"""Scenarios of clients that are right: they match, however they add."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracle._bodies import DIMS, convolution, few, image, norm, pool, stats
from tests.oracle._numbers import distinct, normal, rounded
from tests.oracle._request import Array
from tests.oracle._scenario import Scenario, right
from tests.oracle.rows_pool_faults import uneven
from tests.oracle.rows_pools import positions, unpool, with_nan

DTYPES = ("float32", "float64", "float16", "bfloat16")


def in_dtype(body: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The same request with numbers that the dtype holds."""
    tensors = {k: rounded(v, dtype) for k, v in body.items() if isinstance(v, np.ndarray)}
    return {**body, **tensors, "dtype": dtype}


BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"{kind}_pool{d}d", pool(d, kernel_size=3, stride=2, padding=1, **more))
      for d in DIMS for kind, more in (("max", {}), ("avg", {}), ("lp", {"norm_type": 2}))),
    ("adaptive_avg_pool2d", uneven(2)), ("adaptive_max_pool3d", uneven(3)),
    ("global_avg_pool", {"input": image(3), "grad_output": "ones"}),
    *((f"batch_norm{d}d", norm(d, scale=1)) for d in DIMS),
    ("instance_norm", norm(2, running=False, scale=1)),
    ("group_norm", norm(1, running=False, scale=1, num_groups=2)),
    ("layer_norm", {"input": normal(4, 6), "weight": normal(6, seed=1), "axis": -1,
                    "grad_output": normal(4, 6, seed=2)}),
    ("rms_norm", {"input": normal(4, 6), "weight": normal(6, seed=1), "axis": -1,
                  "grad_output": normal(4, 6, seed=2)}),
    *((f"conv{d}d", convolution(d, padding=1)) for d in DIMS),
)  # fmt: skip
PLAIN: tuple[Scenario, ...] = tuple(
    right(f"right: {layer} {dtype}", layer, in_dtype(body, dtype))
    for layer, body in BODIES
    for dtype in DTYPES
)
LOOPS: tuple[Scenario, ...] = tuple(
    right(f"right: {layer} in float32 loops", layer, body, work=np.float32)
    for layer, body in BODIES
)


def summed(values: Array, order: Callable[[Array], Array]) -> Array:
    """Sums of rows in float32, one after the other in an order."""
    total = np.zeros(values.shape[:-1], np.float32)
    for value in np.moveaxis(order(values), -1, 0).astype(np.float32):
        total = (total + value).astype(np.float32)
    return total.astype(np.float64)


ORDERS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("forwards", lambda v: v),
    ("backwards", lambda v: v[..., ::-1]),
    ("by size", lambda v: np.sort(v, -1)),
)


def cancelling(count: int) -> Array:
    """Large numbers that cancel, all but a small rest."""
    large = rounded(normal(2, 1, count // 2, seed=1) * 1e4, "float32")
    rest = rounded(normal(2, 1, count // 2, seed=2) * 1e-3, "float32")
    return np.concatenate([large, rounded(rest - large, "float32")], -1)


def orders() -> list[Scenario]:
    """Long and cancelling sums in several orders."""
    rows = []
    for kind, x in (("long", normal(2, 1, 3000)), ("cancelling", cancelling(1000)),
                    ("large mean", normal(2, 1, 1000) + 1e3)):  # fmt: skip
        x = rounded(x, "float32")
        for name, order in ORDERS:
            sums = summed(x, order)
            average = rounded(sums / x.shape[-1], "float32")
            rows.append(right(f"right: global average, {kind}, {name}", "global_avg_pool",
                              {"input": x}, sent={"output": average[..., None]}))  # fmt: skip
            weight = rounded(normal(1, 1, x.shape[-1], seed=5), "float32")
            product = summed(rounded(x * weight, "float32"), order)
            rows.append(right(f"right: convolution, {kind}, {name}", "conv1d",
                              {"input": x, "weight": weight},
                              sent={"output": product.reshape(2, 1, 1)}))  # fmt: skip
    return rows


def two_pass(x: Array, eps: float) -> dict[str, Array]:
    """Batch norm in float32: the mean, then the mean square of the differences."""
    single = x.astype(np.float32)
    mean = single.mean((0, 2), dtype=np.float32)
    apart = single - mean[:, None]
    var = np.square(apart).mean((0, 2), dtype=np.float32)
    output = apart / np.sqrt(var + np.float32(eps))[:, None]
    return {
        "output": output.astype(np.float64),
        "batch_stats.mean": mean.astype(np.float64),
        "batch_stats.var": var.astype(np.float64),
    }


SPECIAL: tuple[Scenario, ...] = (
    *orders(),
    right("right: batch norm in two float32 passes", "batch_norm1d",
          {"input": normal(5, 3, 20), "training": True},
          sent=two_pass(normal(5, 3, 20), 1e-5)),
    right("right: batch norm of a constant channel", "batch_norm1d",
          {"input": np.full((4, 2, 3), 3.25), "training": True}),
    right("right: NaN", "max_pool2d", pool(2, input=with_nan(2), return_indices=True)),
    right("right: indices of tf", "max_pool2d",
          pool(2, input=distinct(2, 3, 7, 6), return_indices=True, convention="keras",
               layout="channels_first")),
    right("right: split ties", "max_pool3d", pool(3, input=few(3), tie="split")),
    right("right: channels last and flax", "avg_pool2d",
          {"input": normal(2, 5, 6, 3), "kernel_size": 3, "convention": "flax",
           "padding": "same", "grad_output": "ones"}),
    right("right: keras batch norm", "batch_norm2d",
          {"input": normal(2, 3, 3, 4), "convention": "keras", **stats()}),
    right("right: onnx average", "avg_pool2d", pool(2, convention="onnx", padding=1)),
    right("right: no batch axis", "avg_pool1d",
          {"input": normal(3, 7), "kernel_size": 2, "batched": False, "grad_output": "ones"}),
    right("right: evaluation", "batch_norm2d", norm(2, training=False)),
    right("right: cumulative average", "batch_norm2d",
          norm(2, momentum=None, num_batches_tracked=3)),
    right("right: replicas", "sync_batch_norm",
          {"inputs": [normal(2, 3, 4), normal(3, 3, 4, seed=1)], "training": True,
           "grad_outputs": [normal(2, 3, 4, seed=2), normal(3, 3, 4, seed=3)]}),
    right("right: groups of channels", "conv2d",
          convolution(2, input=normal(2, 4, 5, 5), weight=normal(6, 2, 3, 3), groups=2,
                      bias=normal(6))),
    right("right: flax convolution", "conv2d",
          {"input": normal(2, 6, 5, 3), "weight": normal(3, 2, 3, 4), "convention": "flax",
           "grad_output": "ones"}),
    *(right(f"right: max_unpool{d}d", f"max_unpool{d}d", {**unpool(d), "indices": positions(d, 6)})
      for d in DIMS),
    right("right: onnx unpooling", "max_unpool2d",
          {**unpool(2), "indices": positions(2, 6) + 36 * np.arange(2).reshape(1, 2, 1, 1),
           "convention": "onnx", "stride": 2, "output_size": 7}),
    right("right: relu", "relu", {"input": normal(3, 4), "grad_output": normal(3, 4, seed=1)}),
    right("right: -0.0 for 0.0", "relu", {"input": np.array([1.0, -1.0, 2.0])},
          sent={"output": np.array([1.0, -0.0, 2.0])}),
    right("right: another index of the same value", "max_pool1d",
          {"input": np.array([[[5.0, 5.0, 1.0, 2.0]]]), "kernel_size": 2, "return_indices": True},
          sent={"indices": np.array([[[1, 3]]])}),
    right("right: integers", "max_pool2d",
          {"input": np.arange(16).reshape(1, 1, 4, 4), "kernel_size": 2, "dtype": "int32"}),
    right("right: within the client's own tolerance", "avg_pool1d",
          {"input": np.array([[[1.0, 2.0]]]), "kernel_size": 2},
          sent={"output": np.array([[[1.51]]])}, check={"rtol": 0.1, "atol": 0}),
    right("right: within the client's own ulp", "avg_pool1d",
          {"input": np.array([[[1.0, 2.0]]]), "kernel_size": 2},
          sent={"output": np.array([[[1.5 + 2**-21]]])}, check={"rtol": 0, "atol": 0, "ulp": 4}),
)  # fmt: skip
ROWS = (*PLAIN, *LOOPS, *SPECIAL)
