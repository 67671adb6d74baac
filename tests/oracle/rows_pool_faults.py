"""Scenarios of poolings and convolutions: what `check` alone emulates."""

from typing import Any

import numpy as np

from tests.oracle._bodies import DIMS, convolution, few, image, pool
from tests.oracle._numbers import distinct, normal, rounded, whole
from tests.oracle._request import Array
from tests.oracle._scenario import Scenario, named
from tests.oracle.rows_pools import with_nan

OUT = ("output",)
BACK = ("output", "gradients.input")
INDICES = ("output", "indices")
STRIDES = {2: ([3, 2], [2, 1]), 3: ([1, 2, 3], [1, 1, 2])}


def negative(dims: int) -> Array:
    return -abs(image(dims)) - 0.5


def lopsided(dims: int, **more: Any) -> dict[str, Any]:
    """Padding of one before and two behind."""
    return pool(dims, kernel_size=3, stride=1, padding=[[1, 2]], **more)


MAX: tuple[Scenario, ...] = tuple(
    row
    for d in DIMS
    for layer in (f"max_pool{d}d",)
    for row in (
        named(f"{layer} zero-padded-maximum", layer, pool(d, input=negative(d), padding=1),
              fault="zero-padded-maximum", send=BACK),
        named(f"{layer} begin-padding-dropped", layer,
              pool(d, kernel_size=3, stride=1, padding=1), fault="begin-padding-dropped",
              send=BACK),
        named(f"{layer} dilation-ignored", layer, pool(d, dilation=2, stride=1),
              fault="dilation-ignored"),
        named(f"{layer} dilation-from-clamped-begin", layer,
              pool(d, dilation=2, stride=1, padding=1), fault="dilation-from-clamped-begin",
              send=OUT),
        named(f"{layer} nan-if-first", layer, pool(d, input=with_nan(d)), fault="nan-if-first",
              send=OUT),
        named(f"{layer} tie-last", layer, pool(d, input=few(d)), fault="tie-last", send=BACK),
        named(f"{layer} overlap-overwritten", layer,
              pool(d, kernel_size=3, stride=1, grad_output="ones"), fault="overlap-overwritten"),
        named(f"{layer} index-from-one", layer, pool(d, return_indices=True),
              fault="index-from-one", send=INDICES),
        named(f"{layer} index-padded", layer, pool(d, return_indices=True, padding=1),
              fault="index-padded", send=INDICES),
        named(f"{layer} index-in-window", layer, pool(d, return_indices=True),
              fault="index-in-window", send=INDICES),
        named(f"{layer} loss-mean", layer, pool(d), fault="loss-mean"),
        *((named(f"{layer} tie-column-major", layer, pool(d, input=few(d)),
                 fault="tie-column-major", send=BACK),
           named(f"{layer} axes-swapped", layer,
                 pool(d, input=normal(2, 2, *[6] * d), kernel_size=STRIDES[d][0],
                      stride=STRIDES[d][1]), fault="axes-swapped"),
           named(f"{layer} axes-swapped by the stride alone", layer,
                 pool(d, input=normal(2, 2, *[6] * d), kernel_size=2, stride=STRIDES[d][1]),
                 fault="axes-swapped")) if d > 1 else ()),
    )
)  # fmt: skip
AVG: tuple[Scenario, ...] = tuple(
    row
    for d in DIMS
    for layer in (f"avg_pool{d}d",)
    for row in (
        named(f"{layer} end-padding-dropped", layer, lopsided(d), fault="end-padding-dropped"),
        named(f"{layer} end-padding-as-begin", layer, lopsided(d), fault="end-padding-as-begin"),
        named(f"{layer} begin-padding-dropped", layer, lopsided(d),
              fault="begin-padding-dropped"),
        named(f"{layer} dilation-ignored", layer, pool(d, dilation=2, stride=1),
              fault="dilation-ignored"),
        named(f"{layer} edge-replicated", layer, pool(d, stride=1, kernel_size=3, padding=1),
              fault="edge-replicated", send=OUT),
        named(f"{layer} edge-replicated under keras", layer,
              pool(d, kernel_size=3, stride=1, padding="same", convention="keras",
                   layout="channels_first"),
              fault="edge-replicated", send=OUT),
        named(f"{layer} overlap-overwritten", layer,
              pool(d, kernel_size=3, stride=2, padding=1), fault="overlap-overwritten"),
        named(f"{layer} gradient-undivided", layer, pool(d), fault="gradient-undivided"),
        named(f"{layer} gradient-over-kernel", layer,
              pool(d, padding=1, count_include_pad=False), fault="gradient-over-kernel"),
        named(f"{layer} loss-mean", layer, pool(d), fault="loss-mean"),
        *((named(f"{layer} axes-swapped", layer,
                 pool(d, input=normal(2, 2, *[6] * d), kernel_size=STRIDES[d][0],
                      stride=STRIDES[d][1]), fault="axes-swapped"),) if d > 1 else ()),
    )
)  # fmt: skip
LP: tuple[Scenario, ...] = tuple(
    named(f"lp_pool{d}d {fault}", f"lp_pool{d}d", {**pool(d, norm_type=2), **more}, fault=fault)
    for d in DIMS
    for fault, more in (
        ("end-padding-dropped", {"kernel_size": 3, "stride": 1, "padding": [[1, 2]]}),
        ("begin-padding-dropped", {"kernel_size": 3, "stride": 1, "padding": [[1, 2]]}),
        ("dilation-ignored", {"dilation": 2, "stride": 1}),
        ("overlap-overwritten", {"kernel_size": 3, "stride": 1}),
        ("loss-mean", {}),
        *((("axes-swapped", {"kernel_size": STRIDES[d][0], "stride": STRIDES[d][1],
                             "input": normal(2, 2, *[6] * d)}),) if d > 1 else ()),
    )
)  # fmt: skip


def uneven(dims: int, **more: Any) -> dict[str, Any]:
    """An adaptive pooling of 5 elements an axis to 3."""
    return {"input": normal(2, 2, *[5] * dims), "output_size": 3, "grad_output": "ones", **more}


ADAPTIVE: tuple[Scenario, ...] = tuple(
    named(f"adaptive_{kind}_pool{d}d {fault}", f"adaptive_{kind}_pool{d}d", uneven(d),
          fault=fault)
    for kind in ("max", "avg")
    for d in DIMS
    for fault in ("adaptive-end-floored", "adaptive-fixed-stride", "overlap-overwritten",
                  "loss-mean", *(("gradient-undivided",) if kind == "avg" else ()))
)  # fmt: skip
GLOBAL: tuple[Scenario, ...] = (
    *(named(f"max_pool2d {fault} with its indices{' in ceil mode' * ceil}", "max_pool2d",
            pool(2, input=few(2, seed=3), return_indices=True, ceil_mode=ceil), fault=fault)
      for fault in ("tie-last", "tie-column-major") for ceil in (False, True)),
    *(named(f"global_avg_pool {d}d gradient-undivided", "global_avg_pool",
            {"input": image(d), "grad_output": "ones"}, fault="gradient-undivided") for d in DIMS),
    *(named(f"{layer} loss-mean", layer, {"input": image(2), "grad_output": "ones"},
            fault="loss-mean") for layer in ("global_avg_pool", "global_max_pool")),
    *(named(f"adaptive_max_pool{d}d index-from-one", f"adaptive_max_pool{d}d",
            uneven(d, return_indices=True), fault="index-from-one", send=INDICES) for d in DIMS),
    *(named(f"adaptive_max_pool{d}d tie-last", f"adaptive_max_pool{d}d",
            uneven(d, input=whole(2, 2, *[5] * d, low=0, high=2)), fault="tie-last", send=BACK)
      for d in DIMS),
    named("adaptive_max_pool2d nan-if-first", "adaptive_max_pool2d",
          {"input": with_nan(2), "output_size": 3}, fault="nan-if-first", send=OUT),
    named("adaptive_max_pool2d index-in-window", "adaptive_max_pool2d",
          {"input": distinct(2, 2, 6, 6), "output_size": 3, "return_indices": True},
          fault="index-in-window", send=INDICES),
    named("global_max_pool tie-last", "global_max_pool",
          {"input": few(2), "grad_output": "ones"}, fault="tie-last", send=BACK),
    named("relu loss-mean", "relu", {"input": normal(3, 4), "grad_output": "ones"},
          fault="loss-mean"),
    *(named(f"{layer} begin-padding-as-end", layer, {**body, "padding": [[2, 1]]},
            fault="begin-padding-as-end")
      for d in DIMS for layer, body in (
          (f"avg_pool{d}d", pool(d, stride=1, kernel_size=3)),
          (f"lp_pool{d}d", pool(d, stride=1, kernel_size=3, norm_type=2)))),
    *(named(f"{layer} begin-padding-as-end is its padding swapped", layer,
            {**body, "padding": [[2, 1]]}, options={"padding": [[1, 2]]})
      for d in DIMS for layer, body in (
          (f"max_pool{d}d", pool(d, stride=1, kernel_size=3)),
          (f"conv{d}d", convolution(d)))),
    *(named(f"{layer} dilation-ignored, in the right shape", layer, body,
            fault="dilation-ignored:for the size alone", send=OUT)
      for d in DIMS for layer, body in (
          (f"avg_pool{d}d", pool(d, dilation=2, stride=1)),
          (f"max_pool{d}d", pool(d, dilation=2, stride=1)),
          (f"conv{d}d", convolution(d, dilation=2)))),
    *(named(f"conv{d}d axes-swapped with the kernel", f"conv{d}d",
            convolution(d, stride=STRIDES[d][1], padding=[2, 0, 1][:d]),
            fault="axes-swapped:with the kernel", send=OUT) for d in (2, 3)),
    named("max_pool1d maximum-from-lowest", "max_pool1d",
          {"input": np.array([[[-np.inf, -np.inf, 1, 2]]]), "kernel_size": 2},
          fault="maximum-from-lowest"),
    named("relu nan-to-zero", "relu", {"input": np.array([np.nan, -1.0, 2])},
          fault="nan-to-zero"),
    named("relu gradient-at-zero", "relu",
          {"input": np.array([-1.0, 0, 2]), "grad_output": "ones"}, fault="gradient-at-zero"),
    *(named(f"conv{d}d kernel-transposed", f"conv{d}d", convolution(d), fault="kernel-transposed",
            send=OUT) for d in (2, 3)),
    *(named(f"{layer} loss-mean-over-batch", layer, {"input": image(2), "grad_output": "ones"},
            fault="loss-mean-over-batch") for layer in ("global_avg_pool", "global_max_pool")),
    named("max_unpool2d loss-mean", "max_unpool2d",
          {"input": np.array([[[[5.0, 7.0]]]]), "indices": np.array([[[[1, 6]]]]),
           "kernel_size": 2, "grad_output": "ones"}, fault="loss-mean"),
)  # fmt: skip
CONV: tuple[Scenario, ...] = tuple(
    row
    for d in DIMS
    for layer in (f"conv{d}d",)
    for row in (
        named(f"{layer} kernel-flipped", layer, convolution(d), fault="kernel-flipped"),
        named(f"{layer} kernel-flipped in hwio", layer,
              convolution(d, convention="keras", layout="channels_first"),
              fault="kernel-flipped"),
        named(f"{layer} weight-transposed in hwio", layer,
              convolution(d, weight_layout="hwio"), fault="weight-transposed"),
        named(f"{layer} weight-transposed", layer, convolution(d), fault="weight-transposed"),
        named(f"{layer} dilation-ignored", layer, convolution(d, dilation=2),
              fault="dilation-ignored"),
        named(f"{layer} begin-padding-dropped", layer, convolution(d, padding=1),
              fault="begin-padding-dropped"),
        named(f"{layer} loss-mean", layer, convolution(d, padding=1), fault="loss-mean"),
        *((named(f"{layer} axes-swapped", layer,
                 convolution(d, stride=STRIDES[d][1], padding=[2, 0, 1][:d]),
                 fault="axes-swapped"),) if d > 1 else ()),
    )
)  # fmt: skip


def long(dtype: str, count: int = 300) -> Array:
    """One large number and many ones: a sum in the dtype stops growing."""
    x = np.ones(count)
    x[0] = 256 if dtype == "bfloat16" else 2048
    return x


HALF: tuple[Scenario, ...] = tuple(
    row
    for dtype in ("float16", "bfloat16")
    for row in (
        named(f"global_avg_pool half-accumulation {dtype}", "global_avg_pool",
              {"input": long(dtype).reshape(1, 1, 300), "dtype": dtype},
              fault="half-accumulation"),
        named(f"avg_pool1d half-accumulation {dtype}", "avg_pool1d",
              {"input": long(dtype).reshape(1, 1, 300), "kernel_size": 300, "dtype": dtype},
              fault="half-accumulation"),
        named(f"adaptive_avg_pool3d half-accumulation {dtype}", "adaptive_avg_pool3d",
              {"input": long(dtype, 216).reshape(1, 1, 6, 6, 6), "output_size": 1,
               "dtype": dtype}, fault="half-accumulation"),
        named(f"avg_pool2d half-accumulation of random numbers {dtype}", "avg_pool2d",
              {"input": rounded(abs(normal(1, 2, 40, 40)) + 1, dtype), "kernel_size": 40,
               "dtype": dtype}, fault="half-accumulation"),
        named(f"conv1d half-accumulation {dtype}", "conv1d",
              {"input": long(dtype).reshape(1, 1, 300), "weight": np.ones((1, 1, 300)),
               "dtype": dtype}, fault="half-accumulation"),
    )
)  # fmt: skip
ROWS = (*MAX, *AVG, *LP, *ADAPTIVE, *GLOBAL, *CONV, *HALF)
