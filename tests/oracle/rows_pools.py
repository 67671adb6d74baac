"""Scenarios of poolings: options that frameworks disagree on."""

import numpy as np

from tests.oracle._bodies import DIMS, few, image, pool, ranks
from tests.oracle._numbers import distinct, normal
from tests.oracle._request import Array
from tests.oracle._scenario import Scenario, named

OUT = ("output",)
INDICES = ("output", "indices")


def with_nan(dims: int) -> Array:
    """A feature map with a NaN that is not the first of its window."""
    x = ranks(dims)
    x[(0, 1, *[1] * dims)] = np.nan
    x[(1, 2, *[0] * dims)] = np.nan
    return x


def square(dims: int, channels: int = 5) -> Array:
    """A feature map that either layout can read."""
    return normal(2, channels, *[5] * dims, seed=3)


MAX: tuple[Scenario, ...] = tuple(
    row
    for d in DIMS
    for layer in (f"max_pool{d}d",)
    for row in (
        named(f"{layer} ceil_mode", layer, pool(d), options={"ceil_mode": True}),
        named(f"{layer} floor for ceil", layer, pool(d, ceil_mode=True),
              options={"ceil_mode": False}),
        named(f"{layer} ceil_rule keep", layer,
              {"input": distinct(1, 2, *[5] * d), "kernel_size": 2, "stride": 2, "padding": 1,
               "ceil_mode": True, "empty_window": "lowest"}, options={"ceil_rule": "keep"}),
        named(f"{layer} empty_window", layer,
              {"input": distinct(1, 2, *[5] * d), "kernel_size": 2, "stride": 2, "padding": 1,
               "ceil_mode": True, "ceil_rule": "keep", "empty_window": "lowest"},
              options={"empty_window": "zero"}),
        named(f"{layer} stride of 1", layer, pool(d), options={"stride": 1}),
        named(f"{layer} stride of the kernel", layer, pool(d, stride=1), options={"stride": 2}),
        named(f"{layer} same_upper", layer, pool(d, kernel_size=3, stride=1),
              options={"padding": "same_upper"}),
        named(f"{layer} same_lower for same_upper", layer,
              pool(d, stride=1, padding="same_upper"), options={"padding": "same_lower"}),
        named(f"{layer} valid", layer, pool(d, padding=1), options={"padding": "valid"}),
        named(f"{layer} padding swapped", layer, pool(d, padding=[[1, 0]]),
              options={"padding": [[0, 1]]}),
        named(f"{layer} tie split", layer, pool(d, input=few(d)), options={"tie": "split"}),
        named(f"{layer} tie all", layer, pool(d, input=few(d)), options={"tie": "all"}),
        named(f"{layer} tie first for split", layer, pool(d, input=few(d), tie="split"),
              options={"tie": "first"}),
        named(f"{layer} nan ignored", layer, pool(d, input=with_nan(d)),
              options={"nan": "ignore"}),
        named(f"{layer} nan wins", layer, pool(d, input=with_nan(d), nan="ignore"),
              options={"nan": "propagate"}),
        named(f"{layer} indices onnx", layer, pool(d, return_indices=True),
              options={"index_base": "onnx"}, send=INDICES),
        named(f"{layer} indices tf", layer, pool(d, return_indices=True),
              options={"index_base": "tf"}, send=INDICES),
        named(f"{layer} indices plane for tf", layer,
              pool(d, return_indices=True, index_base="tf"),
              options={"index_base": "plane"}, send=INDICES),
        named(f"{layer} layout", layer, {"input": square(d), "kernel_size": 2},
              options={"layout": "channels_last"}),
        *((named(f"{layer} indices column", layer,
                 pool(d, return_indices=True, index_base="onnx"),
                 options={"storage_order": "column"}, send=INDICES),
           named(f"{layer} indices row for column", layer,
                 pool(d, return_indices=True, index_base="onnx", storage_order="column"),
                 options={"storage_order": "row"}, send=INDICES)) if d > 1 else ()),
    )
)  # fmt: skip
AVG: tuple[Scenario, ...] = tuple(
    row
    for d in DIMS
    for layer in (f"avg_pool{d}d",)
    for row in (
        named(f"{layer} ceil_mode", layer, pool(d), options={"ceil_mode": True}),
        named(f"{layer} ceil_rule keep", layer,
              {"input": normal(1, 2, *[5] * d), "kernel_size": 2, "stride": 2, "padding": 1,
               "ceil_mode": True}, options={"ceil_rule": "keep"}),
        named(f"{layer} padding not counted", layer, pool(d, padding=1),
              options={"count_include_pad": False}),
        named(f"{layer} padding counted", layer, pool(d, padding=1, count_include_pad=False),
              options={"count_include_pad": True}),
        named(f"{layer} divisor not overridden", layer, pool(d, divisor_override=3),
              options={"divisor_override": None}),
        named(f"{layer} overhang counted", layer, pool(d, kernel_size=3, stride=3, ceil_mode=True),
              options={"overhang_divisor": "kernel"}),
        named(f"{layer} stride of 1", layer, pool(d), options={"stride": 1}),
        named(f"{layer} stride of the kernel", layer, pool(d, kernel_size=3, stride=1),
              options={"stride": 3}),
        named(f"{layer} same_upper", layer, pool(d, kernel_size=3),
              options={"padding": "same_upper"}),
        named(f"{layer} same_lower for same_upper", layer,
              pool(d, stride=1, padding="same_upper", count_include_pad=False),
              options={"padding": "same_lower"}),
        named(f"{layer} padding swapped", layer, pool(d, padding=[[1, 0]]),
              options={"padding": [[0, 1]]}),
        named(f"{layer} layout", layer, {"input": square(d), "kernel_size": 2},
              options={"layout": "channels_last"}),
    )
)  # fmt: skip
LP: tuple[Scenario, ...] = tuple(
    row
    for d in DIMS
    for layer in (f"lp_pool{d}d",)
    for row in (
        named(f"{layer} absolute values", layer, pool(d, norm_type=1), options={"lp_abs": True}),
        named(f"{layer} signed values", layer, pool(d, norm_type=1, lp_abs=True),
              options={"lp_abs": False}),
        named(f"{layer} partial windows not scaled", layer,
              pool(d, norm_type=2, ceil_mode=True, kernel_size=3, stride=3),
              options={"lp_partial": "sum"}),
        named(f"{layer} partial windows scaled", layer,
              pool(d, norm_type=2, ceil_mode=True, kernel_size=3, stride=3, lp_partial="sum"),
              options={"lp_partial": "scaled"}),
        named(f"{layer} ceil_mode", layer, pool(d, norm_type=2), options={"ceil_mode": True}),
        named(f"{layer} stride of 1", layer, pool(d, norm_type=2), options={"stride": 1}),
    )
)  # fmt: skip


def unpool(dims: int) -> dict[str, object]:
    """Values with plane indices into a default size and a larger one."""
    x = distinct(1, 2, *[3] * dims) + 1
    return {"input": x, "kernel_size": 2, "grad_output": "ones"}


def positions(dims: int, side: int, seed: int = 0) -> Array:
    """Distinct plane indices for three windows an axis, two channels."""
    rng = np.random.default_rng(seed)
    lines = [rng.permutation(side**dims)[: 3**dims] for _ in range(2)]
    return np.array(lines, np.int64).reshape(1, 2, *[3] * dims)


def base_onnx(dims: int, side: int) -> Array:
    """The same, numbered through the whole tensor."""
    shifted: Array = positions(dims, side) + side**dims * np.arange(2).reshape(1, 2, *[1] * dims)
    return shifted


def base_tf(dims: int) -> Array:
    """Indices with the channel fastest, small enough to be a plane's as well."""
    channel = np.arange(2).reshape(1, 2, *[1] * dims)
    return np.asarray(positions(dims, 3) * 2 + channel)


OTHERS: tuple[Scenario, ...] = (
    *(named(f"{layer} keepdims {keep} in {d}d", layer,
            {"input": image(d), "keepdims": not keep}, options={"keepdims": keep})
      for layer in ("global_max_pool", "global_avg_pool") for d in DIMS for keep in (True, False)),
    *(named(f"{layer} keepdims {keep} with a gradient", layer,
            {"input": image(2), "keepdims": not keep,
             "grad_output": normal(*((2, 3) if keep else (2, 3, 1, 1)), seed=4)},
            options={"keepdims": keep})
      for layer in ("global_max_pool", "global_avg_pool") for keep in (True, False)),
    *(named(f"{layer}{d}d layout", f"{layer}{d}d",
            {"input": square(d), "output_size": 2}, options={"layout": "channels_last"})
      for layer in ("adaptive_max_pool", "adaptive_avg_pool") for d in DIMS),
    *(named(f"max_unpool{d}d index_base", f"max_unpool{d}d",
            {**unpool(d), "indices": base_tf(d), "index_base": "tf"},
            options={"index_base": "plane"}) for d in DIMS),
    *(named(f"max_unpool{d}d index_space", f"max_unpool{d}d",
            {**unpool(d), "indices": positions(d, 6), "output_size": 7},
            options={"index_space": "default"}) for d in (2, 3)),
    *(named(f"max_unpool{d}d storage_order", f"max_unpool{d}d",
            {**unpool(d), "indices": base_onnx(d, 6), "index_base": "onnx"},
            options={"storage_order": "column"}) for d in (2, 3)),
)  # fmt: skip
ROWS = (*MAX, *AVG, *LP, *OTHERS)
