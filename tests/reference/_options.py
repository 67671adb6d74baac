"""The product's options and shapes: each option of each layer, with each of its values.

Lists of three have one entry per axis and are cut to the last axes for layers with fewer.
"""

import itertools
from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]
WHOLE = "whole"
"""Placeholder for a kernel as large as the input."""
WINDOWS: tuple[Options, ...] = (
    {"kernel_size": 2},
    {"kernel_size": [2, 1, 3], "stride": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    {"kernel_size": 2, "stride": 2, "padding": [[1, 0]], "ceil_mode": True, "ceil_rule": "keep"},
    {"kernel_size": 2, "padding": [[1, 0]], "stride": None},
    {"kernel_size": 3, "padding": [[0, 2]], "stride": 2},
    {"kernel_size": [2, 3, 2], "padding": [[1, 0], [0, 1], [1, 1]], "stride": [1, 2, 1]},
    {"kernel_size": 2, "dilation": 2, "stride": 1, "padding": 1},
    {"kernel_size": 3, "dilation": [1, 1, 2], "padding": 1, "stride": 1, "ceil_mode": True},
    {"kernel_size": 2, "padding": "same"},
    {"kernel_size": 3, "padding": "same_upper", "stride": 2},
    {"kernel_size": 2, "padding": "same_lower", "stride": 1, "dilation": 2},
    {"kernel_size": 2, "padding": "valid", "ceil_mode": True},
    {"kernel_size": WHOLE},
    {"kernel_size": 1, "stride": 1},
    {"kernel_size": 4, "padding": 2, "stride": 4, "ceil_mode": True},
    {"kernel_size": 9, "stride": 8, "ceil_mode": True},
    {"kernel_size": 3, "padding": 1, "stride": 1},
    {"kernel_size": 3, "padding": 2, "stride": 1, "convention": "keras"},
)
EMPTY: tuple[Options, ...] = (
    {"kernel_size": 2, "dilation": 9, "padding": [[8, 7]], "stride": 2},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True, "ceil_rule": "keep"},
    {"kernel_size": 2, "dilation": 8, "padding": "same", "stride": 1},
)
"""Windows of which some hold no element, over most shapes."""
SOME = tuple(WINDOWS[i] for i in (0, 3, 8, 10, 13))


def _with(windows: tuple[Options, ...], **values: tuple[Any, ...]) -> tuple[Options, ...]:
    """Combine each of the windows with each choice of values."""
    choices = [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
    return tuple({**window, **choice} for window in windows for choice in choices)


FLAGS = (True, False)
ADAPTIVE: tuple[Options, ...] = tuple(
    {"output_size": size} for size in (1, 2, 3, 7, None, [2, None, 3], [3, 1, 2])
)
UNPOOL: tuple[Options, ...] = (
    *_with(
        ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}),
        index_base=("plane", "onnx", "tf"),
        index_space=("output", "default"),
    ),
    {"kernel_size": 2, "index_base": "onnx", "storage_order": "column"},
    {"kernel_size": [2, 3, 2], "padding": [[1, 0]], "index_base": "onnx"},
    {"kernel_size": 3, "stride": 2, "extra": 1, "index_base": "onnx", "index_space": "default"},
    {"kernel_size": 3, "stride": 2, "extra": 1, "index_space": "output"},
)
BATCH_NORM: tuple[Options, ...] = (
    {"training": True},
    {"training": False},
    *_with(
        ({"training": True},),
        momentum_weights=("batch", "running"),
        running_var_estimator=("unbiased", "biased"),
    ),
    {"training": True, "momentum": None, "num_batches_tracked": 3},
    {"training": True, "momentum": None},
    {"training": True, "momentum": 0.0},
    {"training": True, "momentum": 1.0},
    {"training": True, "momentum": 0.3, "num_batches_tracked": 2**40},
    {"training": True, "eps": 0.5},
    {"training": True, "eps": 0.0},
    {"training": False, "eps": 0.0},
    {"training": False, "eps": 0.1, "momentum": 0.7},
)
NORM: tuple[Options, ...] = ({}, {"eps": 1e-3}, {"eps": 0.0}, {"eps": 0.5})
TRAILING: tuple[Options, ...] = (
    {"axis": -1}, {"axis": 1}, {"axis": 0}, {"axis": -2}, {"trailing": 1}, {"trailing": 2},
    {"axis": -1, "eps": 0.0}, {"axis": 1, "eps": 0.5},
)  # fmt: skip
CONV: tuple[Options, ...] = (
    {"kernel": [2]},
    {"kernel": [1]},
    {"kernel": [2, 1, 3], "stride": [1, 2, 1]},
    {"kernel": [3], "padding": 1},
    {"kernel": [3], "padding": 2, "stride": 3},
    {"kernel": [2], "padding": [[1, 0]], "stride": 2},
    {"kernel": [2], "padding": [[0, 3]]},
    {"kernel": [2, 2, 3], "padding": [[1, 0], [0, 1], [2, 1]], "groups": 2},
    {"kernel": [2], "dilation": 2, "padding": 1},
    {"kernel": [2], "dilation": [2, 1, 3], "padding": 2, "groups": 2},
    {"kernel": [3], "padding": "same", "dilation": 2},
    {"kernel": [2], "padding": "same_upper", "stride": 2},
    {"kernel": [2], "padding": "same_lower"},
    {"kernel": [2], "padding": "valid", "stride": 3},
    {"kernel": [1], "groups": 2, "stride": 2},
    {"kernel": WHOLE},
)
OPTIONS: Mapping[str, tuple[Options, ...]] = {
    "max_pool": (
        *_with(WINDOWS, return_indices=(True,)),
        *_with(SOME, tie=("first", "split", "all"), nan=("propagate", "ignore"),
               return_indices=(True,)),
        *_with(SOME[1:3], index_base=("plane", "onnx", "tf"), return_indices=(True,)),
        *_with(SOME[1:3], index_base=("onnx",), storage_order=("column",),
               return_indices=(True,)),
        *_with(EMPTY, empty_window=("refuse", "zero", "lowest"), return_indices=(True,)),
        *_with(EMPTY[:2], empty_window=("zero", "lowest"), tie=("first", "split", "all"),
               nan=("ignore",), return_indices=(True,)),
        *_with(EMPTY[::2], empty_window=("lowest",), index_base=("plane", "onnx", "tf"),
               return_indices=(True,)),
        *_with(EMPTY[:1], empty_window=("zero",), index_base=("onnx",),
               storage_order=("column",), return_indices=(True,)),
        {"kernel_size": 2, "return_indices": False},
    ),
    "avg_pool": (
        *WINDOWS,
        *_with(SOME, count_include_pad=FLAGS, overhang_divisor=("inside", "kernel")),
        *_with(SOME[:3], divisor_override=(None, 3, -2)),
        *_with(EMPTY, empty_window=("refuse", "zero"), count_include_pad=FLAGS),
        *_with(EMPTY[:1], empty_window=("zero",), count_include_pad=(False,),
               divisor_override=(3,)),
    ),
    "lp_pool": (
        *WINDOWS,
        *_with(SOME[:4], lp_abs=FLAGS, lp_partial=("scaled", "sum"), norm_type=(1.0, 3.0)),
        *_with(SOME[:2], lp_abs=FLAGS, norm_type=(0.5, 1.5, 2.0, 4.0)),
    ),
    "adaptive_max_pool": _with(ADAPTIVE, return_indices=(True,)),
    "adaptive_avg_pool": ADAPTIVE,
    "global_max_pool": ({}, {"keepdims": True}, {"keepdims": False}),
    "global_avg_pool": ({}, {"keepdims": True}, {"keepdims": False}),
    "max_unpool": UNPOOL,
    "batch_norm": BATCH_NORM,
    "sync_batch_norm": BATCH_NORM,
    "instance_norm": NORM,
    "group_norm": (
        *_with(NORM, num_groups=(1, 2)),
        {"num_groups": WHOLE},
        {"channels": 32, "convention": "keras"},
        {"channels": 64, "convention": "flax"},
    ),
    "layer_norm": TRAILING,
    "rms_norm": (*TRAILING, *_with(TRAILING, weight_offset=(0, 1))),
    "conv": (*CONV, *_with(CONV[2:8], weight_layout=("oihw", "hwio"))),
    "relu": ({}, {}),
}  # fmt: skip
Shapes = tuple[tuple[int, ...], ...]
_BY_DIMS: Mapping[int, Shapes] = {
    1: ((2, 2, 6), (1, 4, 7), (1, 2, 5), (3, 2, 4), (1, 2, 9), (2, 4, 5), (1, 2, 3)),
    2: (
        (2, 2, 5, 4), (1, 2, 3, 5), (1, 4, 1, 6), (3, 2, 4, 1), (1, 2, 5, 5), (1, 2, 2, 7),
        (2, 4, 3, 3),
    ),
    3: (
        (2, 2, 3, 4, 3), (1, 2, 2, 3, 4), (1, 2, 1, 5, 3), (2, 2, 4, 1, 3), (1, 4, 3, 3, 1),
        (1, 2, 1, 1, 6), (1, 2, 3, 3, 3),
    ),
}  # fmt: skip
_ONES: Mapping[int, Shapes] = {
    1: ((1, 1, 6), (4, 2), (1, 3, 1), (1, 2, 5), (3, 1, 4), (2, 3, 8), (1, 2)),
    2: (
        (1, 1, 5, 4), (1, 3, 5, 4), (1, 2, 1, 6), (3, 1, 4, 1), (1, 2, 1, 1), (2, 3, 4, 4),
        (2, 1, 1, 1),
    ),
    3: (
        (1, 1, 3, 4, 3), (1, 3, 2, 3, 4), (1, 2, 1, 5, 3), (2, 1, 4, 1, 3), (1, 2, 1, 1, 1),
        (2, 2, 3, 3, 2), (3, 2, 1, 1, 1),
    ),
}  # fmt: skip
_ANY: Shapes = tuple(_ONES[1][i] for i in (0, 3)) + _BY_DIMS[2][:3] + _BY_DIMS[3][:2]
_NORM: Shapes = (
    (1, 2, 6), (1, 2, 5, 4), (2, 2, 3, 3), (1, 4, 1, 6), (1, 2, 3, 2, 4), (2, 4, 1, 3, 2),
    (1, 2, 1),
)  # fmt: skip
_TRAILING: Shapes = ((5,), (2, 3), (4, 1), (2, 3, 4), (1, 8), (1, 2, 3, 4), (2, 1, 2, 3, 2))


def shapes_of(family: str, dims: int) -> Shapes:
    """Seven shapes `(N, C, *spatial)`; for layer and RMS norm, shapes with any axes."""
    if family == "batch_norm":
        return _ONES[dims]
    if family in ("layer_norm", "rms_norm", "relu"):
        return _TRAILING
    if family == "sync_batch_norm":
        return (*_ONES[1][:2], *_ONES[2][1:4], *_ONES[3][1:3])
    if family in ("instance_norm", "group_norm"):
        return _NORM
    return _BY_DIMS[dims] if dims else _ANY
