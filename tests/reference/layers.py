"""All layers by name, with the correct results for a request."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.reference._requests import Expected, Request
from tests.reference.batch_norms import batch_norm, sync_batch_norm
from tests.reference.convolution import conv, conv_axes, weight_of
from tests.reference.lp_pooling import lp_pool
from tests.reference.pooling import avg_pool, axes_of, max_pool, output_spatial
from tests.reference.rectifier import relu
from tests.reference.sample_norms import group_norm, layer_norm, rms_norm
from tests.reference.unpooling import max_unpool, output_size

FAMILIES: Mapping[str, Callable[[Request], dict[str, Expected]]] = {
    "max_pool": max_pool, "avg_pool": avg_pool, "lp_pool": lp_pool,
    "adaptive_max_pool": max_pool, "adaptive_avg_pool": avg_pool,
    "global_max_pool": max_pool, "global_avg_pool": avg_pool, "max_unpool": max_unpool,
    "batch_norm": batch_norm, "sync_batch_norm": sync_batch_norm, "instance_norm": group_norm,
    "group_norm": group_norm, "layer_norm": layer_norm, "rms_norm": rms_norm,
    "conv": conv, "relu": relu,
}  # fmt: skip
SPATIAL = ("max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool",
           "max_unpool", "batch_norm", "conv")  # fmt: skip
LAYERS = tuple(
    f"{family}{dims}" for family in FAMILIES
    for dims in (("1d", "2d", "3d") if family in SPATIAL else ("",))
)  # fmt: skip


def family_of(layer: str) -> str:
    """The layer's name without its number of axes."""
    return re.sub(r"[123]d$", "", layer)


def expected(layer: str, body: Mapping[str, Any]) -> dict[str, Expected]:
    """The correct results by dotted name, in the requested layout.

    Raises:
        Refused: the request has no answer.

    """
    family = family_of(layer)
    with np.errstate(all="ignore"):
        return FAMILIES[family](Request(family, body))


def output_shape(layer: str, body: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the output as sent, from the geometry alone.

    Raises:
        Refused: the request has no answer.

    """
    family = family_of(layer)
    request = Request(family, body)
    if family in ("relu", "layer_norm", "rms_norm", "instance_norm", "group_norm", "batch_norm"):
        return tuple(body["input"].shape)
    shape = request.image().shape
    if family == "conv":
        out = (shape[0], len(weight_of(request)), *(axis.output for axis in conv_axes(request)))
    elif family == "max_unpool":
        out = (*shape[:2], *output_size(request))
    else:
        spatial = tuple(axis.output for axis in axes_of(request))
        out = (*shape[:2], *output_spatial(request, spatial))
    empty = Expected(np.empty(out), np.empty(out))
    return request.outward(empty).value.shape
