"""Requests with long sums, on which each layer's accuracy is measured."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tests.reference._cases import Case
from tests.reference._inputs import generator
from tests.reference._options import Options
from tests.reference._windows import Array
from tests.reference.layers import family_of, output_shape
from tests.reference.precision import rounded

LAYOUTS = ("channels_first", "channels_last")
DTYPES = ("float32", "float16", "bfloat16")
NUMBERS = ("dense", "constant", "positive")
"""Both signs; 3.3 throughout; one sign, so that rounding errors accumulate."""
Sizes = tuple[tuple[tuple[int, ...], Options], ...]
_POOLS: Mapping[int, tuple[Sizes, Sizes]] = {
    1: (
        (((2, 4, 700), {"kernel_size": 300, "stride": 50}),),
        (((2, 8, 12_500), {"kernel_size": 4000, "stride": 1700}),),
    ),
    2: (
        (((2, 4, 30, 40), {"kernel_size": 25, "stride": 5}),),
        (((2, 8, 125, 100), {"kernel_size": 64, "stride": 20}),),
    ),
    3: (
        (((2, 4, 9, 10, 11), {"kernel_size": 8, "stride": 2}),),
        (((2, 8, 25, 25, 20), {"kernel_size": 16, "stride": 4}),),
    ),
}
_ADAPTIVE: Options = {"output_size": 3}
_NORM: tuple[Sizes, Sizes] = (
    (((4, 4, 15, 16), {}), ((4, 2, 40, 40), {}), ((2, 4, 3), {})),
    (((8, 4, 80, 80), {}), ((1, 2, 400, 300), {}), ((500, 4, 10, 10), {})),
)
_BATCH: tuple[Sizes, Sizes] = tuple(  # type: ignore[assignment]
    tuple((shape, {"training": on}) for shape in (*narrow, *dict(sizes)) for on in (True, False))
    for narrow, sizes in zip((((900, 4, 1, 1),), ((20_000, 2, 1, 1),)), _NORM, strict=True)
)
"""Narrow: one value per sample and channel, which torch would add one by one."""
_ROWS: tuple[Sizes, Sizes] = (
    (((8, 240), {"axis": -1}), ((900, 8), {"axis": -1}), ((4, 1700), {"axis": -1})),
    (((4, 50_000), {"axis": -1}), ((20_000, 10), {"axis": -1}), ((300, 700), {"axis": -1})),
)
_CONV: Mapping[int, tuple[Sizes, Sizes]] = {
    1: (
        (
            ((2, 8, 60), {"weight": (4, 8, 9)}),
            ((2, 2, 460), {"weight": (2, 2, 400)}),
            ((1, 2, 1500), {"weight": (2, 2, 3)}),
            ((1, 2, 2500), {"weight": (2, 2, 2), "dilation": 1400}),
        ),
        (((2, 96, 60), {"weight": (4, 96, 9)}), ((2, 2, 1100), {"weight": (2, 2, 400)})),
    ),
    2: (
        (((2, 8, 12, 13), {"weight": (4, 8, 3, 3)}),),
        (
            ((2, 100, 12, 14), {"weight": (8, 100, 3, 3)}),
            ((4, 2, 40, 39), {"weight": (2, 2, 3, 3)}),
        ),
    ),
    3: (
        (((2, 4, 6, 5, 7), {"weight": (4, 4, 3, 3, 3)}),),
        (((2, 30, 7, 8, 9), {"weight": (8, 30, 3, 3, 3)}),),
    ),
}  # fmt: skip


def _sizes(layer: str) -> tuple[Sizes, Sizes]:
    """Shapes and options for `make test`, and for the long run."""
    family, dims = family_of(layer), int(layer[-2]) if layer.endswith("d") else 2
    if family in ("max_pool", "avg_pool", "lp_pool"):
        return _POOLS[dims]
    if family.startswith(("adaptive", "global")):
        options = _ADAPTIVE if family.startswith("adaptive") else {}
        brief, full = _POOLS[dims]
        return ((brief[0][0], options),), ((full[0][0], options),)
    if family in ("batch_norm", "sync_batch_norm"):
        if layer.endswith("3d") or layer.endswith("1d"):
            return tuple(_reshaped(sizes, dims) for sizes in _BATCH)  # type: ignore[return-value]
        return _BATCH
    if family in ("instance_norm", "group_norm"):
        options = {"num_groups": 2} if family == "group_norm" else {}
        return tuple(tuple((s, options) for s, _ in sizes) for sizes in _NORM)  # type: ignore[return-value]
    if family == "conv":
        return _CONV[dims]
    return _ROWS


def _reshaped(sizes: Sizes, dims: int) -> Sizes:
    """Rearrange the same number of values over one or three spatial axes."""
    return tuple(
        ((*shape[:2], *(1,) * (dims - 1), math.prod(shape[2:])), options)
        for shape, options in sizes
    )


def long_cases(layer: str, *, full: bool) -> Iterator[Case]:
    """Requests with long sums to a layer, in both layouts and in the dtypes that lose digits."""
    family = family_of(layer)
    if family in ("relu", "max_unpool"):
        return
    for shape, options in _sizes(layer)[full]:
        if layer == "batch_norm2d" and len(shape) != 4:
            continue
        product = itertools.product(DTYPES, LAYOUTS, NUMBERS, NUMBERS)
        for number, (dtype, layout, kind, gradient) in enumerate(product):
            if dtype != "float32" and (kind == "dense") == (gradient == "dense"):
                continue  # half types only add a last rounding to float32
            body: dict[str, Any] = {"dtype": dtype, "layout": layout, **options}
            yield _case(layer, family, shape, body, number, kind, gradient)


def _case(
    layer: str, family: str, shape: tuple[int, ...], body: dict[str, Any], number: int, kind: str,
    turn: str,
) -> Case:  # fmt: skip
    dtype, sent = body["dtype"], shape
    if body["layout"] == "channels_last" and family not in ("layer_norm", "rms_norm"):
        sent = (shape[0], *shape[2:], shape[1])
    x = _numbers(kind, sent, dtype, layer, number)
    if "weight" in body:
        body["weight"] = _numbers("dense", body["weight"], dtype, "weight", number)
    if body.get("training") is False:
        for name in ("running_mean", "running_var"):
            body[name] = _numbers("positive", shape[1:2], dtype, name, number)
    made_of = f"{list(shape)} ({kind}, gradient {turn})"
    if family == "sync_batch_norm":
        body |= {"inputs": [x, x[:1]]}
        body["grad_outputs"] = [_numbers(turn, y.shape, dtype, "g", number) for y in body["inputs"]]
        return Case(layer, body, made_of)
    body["input"] = x
    body["grad_output"] = _numbers(turn, output_shape(layer, body), dtype, "gradient", number)
    return Case(layer, body, made_of)


def _numbers(kind: str, shape: tuple[int, ...], dtype: str, *seed: object) -> Array:
    rng = generator(kind, shape, *seed)
    if kind == "constant":
        return rounded(np.full(shape, 3.3), dtype)
    dense = kind == "dense"
    return rounded(rng.standard_normal(shape) if dense else 0.5 + rng.random(shape), dtype)
