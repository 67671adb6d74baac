"""Torch's operators that Lamina has layers for: their arguments, their translation into requests,
and what becomes of torch's own samples.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Body = dict[str, Any]
Request = tuple[str, Body]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
PARAMETERS = ("weight", "bias", "running_mean", "running_var")
LEAVES = ("input", "weight", "bias")
LEFT_OUT_IS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}

ANSWERED, REFUSED = "answered as torch does", "refused as torch does"

# Samples that no request can say.
NO_LAYER_OF_THE_RANK = "batch norm of an input without a channel axis"
MIXED_DTYPES = "tensors of several dtypes: a request has one"
INSTANCE_EVAL = "instance norm with running statistics: Lamina's keeps none"


class Difference(NamedTuple):
    """Where Lamina differs from torch on purpose, and over which field; `holds` of such a body."""

    reason: str
    field: str
    holds: Callable[[Body], bool]


MOMENTUM = "momentum outside [0, 1] is no average: torch runs on to senseless statistics"
EPS = "a negative eps: torch takes the root of negative numbers"
STRIDED_SAME = "'same' with a stride: defined here as in the other frameworks, not in torch"

REFUSED_ON_PURPOSE = (
    Difference(MOMENTUM, "momentum", lambda body: not 0 <= body.get("momentum", 0) <= 1),
    Difference(EPS, "eps", lambda body: body.get("eps", 0) < 0),
)
ANSWERED_ON_PURPOSE = (
    Difference(
        STRIDED_SAME,
        "padding",
        lambda body: body.get("padding") == "same" and body.get("stride", 1) not in (1, [1]),
    ),
)


def _plain(layer: str, body: Body) -> Request | str:
    return layer, body | {"batched": body["input"].dim() > 0}


def _window(layer: str, body: Body) -> Request | str:
    if body.get("stride") == []:
        body["stride"] = None
    return layer, body | {"batched": body["input"].dim() != int(layer[-2]) + 1}


def _unpool(layer: str, body: Body) -> Request | str:
    if "output_size" in body:
        body["output_size"] = body["output_size"][-int(layer[-2]) :]
    return _window(layer, body)


def _batch_norm(layer: str, body: Body) -> Request | str:
    rank = body["input"].dim()
    if rank < 2:
        return NO_LAYER_OF_THE_RANK
    return f"batch_norm{max(rank - 2, 1)}d", {"training": False, **body}


def _instance_norm(layer: str, body: Body) -> Request | str:
    """The output depends on running statistics only where those of the input are not used."""
    if not body.pop("use_input_stats", True):
        return INSTANCE_EVAL
    unused = ("running_mean", "running_var", "momentum")
    return layer, {name: value for name, value in body.items() if name not in unused}


class Op(NamedTuple):
    """One operator: its arguments behind the input, its translation, and what becomes of it.

    `samples` and `errors` name all outcomes of its samples, in each dtype, and error inputs, and
    count them from below.
    """

    arguments: str
    translate: Callable[[str, Body], Request | str]
    samples: Mapping[str, int]
    errors: Mapping[str, int]


MAX_POOL = "kernel_size stride padding dilation ceil_mode return_indices"
AVG_POOL = "kernel_size stride padding ceil_mode count_include_pad divisor_override"
UNPOOL = "indices kernel_size stride padding output_size"
LP_POOL = "norm_type kernel_size stride ceil_mode"
CONV = "weight bias stride padding dilation groups"
BATCH_NORM = "running_mean running_var weight bias training momentum eps"
INSTANCE_NORM = "running_mean running_var weight bias use_input_stats momentum eps"

OPS: Mapping[str, Op] = {
    "max_pool1d": Op(MAX_POOL, _window, {ANSWERED: 864}, {REFUSED: 24}),
    "max_pool2d": Op(MAX_POOL, _window, {ANSWERED: 1440}, {REFUSED: 7}),
    "max_pool3d": Op(MAX_POOL, _window, {ANSWERED: 576}, {REFUSED: 7}),
    "avg_pool1d": Op(AVG_POOL, _window, {ANSWERED: 9}, {REFUSED: 2}),
    "avg_pool2d": Op(AVG_POOL, _window, {ANSWERED: 7}, {REFUSED: 5}),
    "avg_pool3d": Op(AVG_POOL, _window, {ANSWERED: 8}, {REFUSED: 6}),
    "adaptive_avg_pool1d": Op("output_size", _window, {ANSWERED: 6}, {REFUSED: 2}),
    "adaptive_avg_pool2d": Op("output_size", _window, {ANSWERED: 10}, {REFUSED: 3}),
    "adaptive_avg_pool3d": Op("output_size", _window, {ANSWERED: 12}, {REFUSED: 3}),
    "adaptive_max_pool1d": Op("output_size return_indices", _window, {ANSWERED: 8}, {REFUSED: 2}),
    "adaptive_max_pool2d": Op("output_size return_indices", _window, {ANSWERED: 24}, {REFUSED: 3}),
    "adaptive_max_pool3d": Op("output_size return_indices", _window, {ANSWERED: 20}, {REFUSED: 3}),
    "lp_pool1d": Op(LP_POOL, _window, {ANSWERED: 3}, {}),
    "lp_pool2d": Op(LP_POOL, _window, {ANSWERED: 3}, {}),
    "lp_pool3d": Op(LP_POOL, _window, {ANSWERED: 3}, {}),
    "max_unpool1d": Op(UNPOOL, _unpool, {ANSWERED: 144}, {REFUSED: 1}),
    "max_unpool2d": Op(UNPOOL, _unpool, {ANSWERED: 288}, {REFUSED: 1}),
    "max_unpool3d": Op(UNPOOL, _unpool, {ANSWERED: 96}, {REFUSED: 1}),
    "max_unpool1d grad": Op(UNPOOL, _unpool, {ANSWERED: 1}, {}),
    "max_unpool2d grad": Op(UNPOOL, _unpool, {ANSWERED: 1}, {}),
    "max_unpool3d grad": Op(UNPOOL, _unpool, {ANSWERED: 1}, {}),
    "batch_norm": Op(
        BATCH_NORM, _batch_norm, {ANSWERED: 7, MOMENTUM: 3, NO_LAYER_OF_THE_RANK: 2}, {}
    ),
    "batch_norm without_cudnn": Op(
        BATCH_NORM, _batch_norm, {ANSWERED: 7, MOMENTUM: 3, NO_LAYER_OF_THE_RANK: 2}, {}
    ),
    "instance_norm": Op(INSTANCE_NORM, _instance_norm, {ANSWERED: 9}, {}),
    "group_norm": Op("num_groups weight bias eps", _plain, {ANSWERED: 17, EPS: 4}, {REFUSED: 2}),
    "layer_norm": Op("normalized_shape weight bias eps", _plain, {ANSWERED: 5, EPS: 1}, {}),
    "native_layer_norm": Op(
        "normalized_shape weight bias eps", _plain, {ANSWERED: 16, EPS: 4}, {REFUSED: 4}
    ),
    "rms_norm": Op("normalized_shape weight eps", _plain, {ANSWERED: 5, EPS: 1}, {REFUSED: 3}),
    "conv1d": Op(CONV, _window, {ANSWERED: 10}, {REFUSED: 8, MIXED_DTYPES: 2}),
    "conv2d": Op(CONV, _window, {ANSWERED: 30}, {REFUSED: 8, MIXED_DTYPES: 2}),
    "conv3d": Op(CONV, _window, {ANSWERED: 20}, {REFUSED: 7, MIXED_DTYPES: 2, STRIDED_SAME: 1}),
    "relu": Op("inplace", _plain, {ANSWERED: 4}, {}),
}

RAW = "below torch's public functions; its samples are those of the function above it"
NOT_A_LAYER = "Lamina has no such layer"
NOT_WALKED = {
    "max_pool2d_with_indices_backward": RAW,
    "native_batch_norm": RAW,
    "_native_batch_norm_legit": RAW,
    "_batch_norm_with_update": RAW,
    "native_group_norm": RAW,
    "fractional_max_pool2d": NOT_A_LAYER,
    "fractional_max_pool3d": NOT_A_LAYER,
    "local_response_norm": NOT_A_LAYER,
    "conv_transpose1d": NOT_A_LAYER,
    "conv_transpose2d": NOT_A_LAYER,
    "conv_transpose3d": NOT_A_LAYER,
    "leaky_relu": NOT_A_LAYER,
    "prelu": NOT_A_LAYER,
    "relu6": NOT_A_LAYER,
    "rrelu": NOT_A_LAYER,
}
