"""A client: a layer computed as a porter would, with another option or a known fault."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.oracle._avg_pool import avg_pool, lp_pool
from tests.oracle._conv import conv
from tests.oracle._max_pool import max_pool
from tests.oracle._norms import batch_norm, group_norm, layer_norm, sync_batch_norm
from tests.oracle._numbers import rounded
from tests.oracle._request import Array, Body, Request
from tests.oracle._unpool import max_unpool, relu
from tests.oracle._windows import NoAnswer

FAMILIES: Mapping[str, Callable[[Request], dict[str, Array]]] = {
    "max_pool": max_pool, "adaptive_max_pool": max_pool, "global_max_pool": max_pool,
    "avg_pool": avg_pool, "adaptive_avg_pool": avg_pool, "global_avg_pool": avg_pool,
    "lp_pool": lp_pool, "max_unpool": max_unpool, "batch_norm": batch_norm,
    "sync_batch_norm": sync_batch_norm, "instance_norm": group_norm, "group_norm": group_norm,
    "layer_norm": layer_norm, "rms_norm": layer_norm, "conv": conv, "relu": relu,
}  # fmt: skip
__all__ = ["FAMILIES", "NoAnswer", "results"]


def results(
    layer: str, body: Body, options: Body | None = None, fault: str | None = None,
    work: Any = np.float64,
) -> dict[str, Array]:  # fmt: skip
    """Every result by dotted name, rounded once to the request's dtype.

    Raises:
        NoAnswer: with these options the request has none.

    """
    options = dict(options or {})
    merged = {**body, **options}
    if "axis" in options:
        merged.pop("normalized_shape", None)
    request = Request(layer, merged, fault, work)
    found = FAMILIES[request.family](request)
    if fault == "loss-mean":
        whole = sum(value.size for name, value in found.items() if name.startswith("output"))
        for name in found:
            if name.startswith("gradients."):
                found[name] = found[name] / whole
    if fault == "loss-mean-over-batch":
        samples = len(merged["input"]) if request("batched") else 1
        for name in found:
            if name.startswith("gradients."):
                found[name] = found[name] / samples
    return {name: rounded(value, request("dtype")) for name, value in found.items()}
