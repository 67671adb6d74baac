"""Faults planted in the service, each of which the product or the bounds must detect."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from app.compute import Engine
from app.layers import LAYERS, LayerSpec, Plan
from tests.reference._cases import PART, cases
from tests.reference.accuracy import measured
from tests.reference.test_product import faults

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[[Mapping[str, torch.Tensor], Plan], dict[str, torch.Tensor]]
Wrong = Callable[[Run], Run]


def with_options(**values: Any) -> Wrong:
    """Replace options with wrong values; a function is called for the wrong value."""

    def wrong(run: Run) -> Run:
        def planted(tensors: Mapping[str, torch.Tensor], plan: Plan) -> dict[str, torch.Tensor]:
            options = plan.options
            update = {
                name: value(getattr(options, name)) if callable(value) else value
                for name, value in values.items()
            }
            return run(tensors, replace(plan, options=options.model_copy(update=update)))

        return planted

    return wrong


def with_result(
    name: str, change: Callable[[torch.Tensor, Mapping[str, torch.Tensor]], Any]
) -> Wrong:
    """Change one result, given the inputs."""

    def wrong(run: Run) -> Run:
        def planted(tensors: Mapping[str, torch.Tensor], plan: Plan) -> dict[str, torch.Tensor]:
            results = dict(run(tensors, plan))
            if name in results:
                results[name] = change(results[name], tensors)
            return results

        return planted

    return wrong


def with_input(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Wrong:
    """Change one input before it reaches the layer."""

    def wrong(run: Run) -> Run:
        return lambda tensors, plan: run({**tensors, name: change(tensors[name])}, plan)

    return wrong


def fast_variance(y: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Batch norm with E[x^2] - E[x]^2."""
    x, axes = tensors["input"], (0, *range(2, tensors["input"].dim()))
    mean = x.mean(axes, keepdim=True)
    var = (x.square().mean(axes, keepdim=True) - mean.square()).clamp(min=0)
    weight, bias = (tensors[name].view_as(mean) for name in ("weight", "bias"))
    return (x - mean) * (var + 1e-5).rsqrt() * weight + bias


def negative_gradient(y: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return 2 * y.detach() - y if len(y) == 1 else y


def without_last_gradient(y: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([y[..., :-1], y[..., -1:].detach()], -1) if y.shape[-1] > 1 else y


def naive_sum(y: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Averages over windows of 300 elements, added one by one in float32."""
    windows = tensors["input"].unfold(2, 300, 50)
    return windows.cumsum(-1, dtype=torch.float32)[..., -1] / 300


FAULTS: Mapping[str, tuple[str, Wrong]] = {
    "variance as E[x^2] - E[x]^2": ("batch_norm2d", with_result("output", fast_variance)),
    "the wrong sign in a batch of one": (
        "instance_norm",
        with_result("output", negative_gradient),
    ),
    "an index without its depth plane": (
        "max_pool3d",
        with_result("indices", lambda i, t: i % (t["input"].shape[3] * t["input"].shape[4])),
    ),
    "a biased running variance": (
        "batch_norm1d",
        with_options(running_var_estimator="biased"),
    ),
    "momentum on the wrong side": (
        "batch_norm3d",
        with_options(momentum_weights=lambda side: "batch" if side == "running" else "running"),
    ),
    "a cumulative average one batch late": (
        "sync_batch_norm",
        with_options(num_batches_tracked=lambda seen: seen + 1),
    ),
    "padding in the divisor": ("avg_pool2d", with_options(count_include_pad=lambda on: not on)),
    "the overhang in the divisor": ("avg_pool1d", with_options(overhang_divisor="kernel")),
    "a divisor that is not overridden": ("avg_pool3d", with_options(divisor_override=None)),
    "a tie that is not shared": ("max_pool1d", with_options(tie="first")),
    "all of a tie": ("max_pool2d", with_options(tie="all")),
    "NaN ignored": ("max_pool2d", with_options(nan="ignore")),
    "NaN that wins": ("max_pool1d", with_options(nan="propagate")),
    "indices of a plane": ("max_pool2d", with_options(index_base="plane")),
    "-Infinity where 0 was asked for": ("max_pool2d", with_options(empty_window="lowest")),
    "an index in a window without elements": (
        "max_pool1d",
        with_result("indices", lambda i, t: i.clamp(min=0)),
    ),
    "a gradient of a window without elements": (
        "max_pool3d",
        with_result("output", lambda y, t: y + (y.isinf() * t["input"].sum()).nan_to_num()),
    ),
    "rows for columns": ("max_pool2d", with_options(storage_order="row")),
    "no absolute value": ("lp_pool2d", with_options(lp_abs=False)),
    "a partial window's true sum": ("lp_pool1d", with_options(lp_partial="sum")),
    "the first of several indices": (
        "max_unpool1d",
        lambda run: with_input("indices", lambda i: i.flip(2))(
            with_input("input", lambda x: x.flip(2))(run)
        ),
    ),
    "eps twice": ("layer_norm", with_options(eps=lambda eps: 2 * eps)),
    "a gradient that forgets the last element": (
        "rms_norm",
        with_result("output", without_last_gradient),
    ),
    "a weight without its offset": ("rms_norm", with_options(weight_offset=0)),
    "a gradient past the mean": (
        "group_norm",
        with_result("output", lambda y, t: y + t["input"] - t["input"].detach()),
    ),
    "a flipped kernel": ("conv1d", with_input("weight", lambda w: w.flip(2))),
    "a kernel that is transposed": (
        "conv2d",
        with_input("weight", lambda w: w.transpose(0, 1) if len(w) == w.shape[1] else w),
    ),
    "a gradient at 0": (
        "relu",
        with_result("output", lambda y, t: t["input"] * (t["input"] >= 0)),
    ),
    "a half type's digits": ("conv2d", with_result("output", lambda y, t: y.bfloat16().to(y))),
    "float32 for float64": (
        "global_avg_pool",
        with_result("output", lambda y, t: y.float().to(y)),
    ),
    "the ends of adaptive windows": (
        "adaptive_max_pool1d",
        with_result("indices", lambda i, t: (i - 1).clamp(min=0)),
    ),
}  # fmt: skip
INACCURATE: Mapping[str, tuple[str, Wrong]] = {
    "averages in naive float32": ("avg_pool1d", with_result("output", naive_sum)),
    "a global average in naive float32": (
        "global_avg_pool",
        with_result(
            "output",
            lambda y, t: (
                t["input"].flatten(2).cumsum(2, dtype=torch.float32)[..., -1:]
                / t["input"][0, 0].numel()
            ).view_as(y),
        ),
    ),
    "weights rounded to bfloat16": ("conv3d", with_input("weight", lambda w: w.bfloat16().to(w))),
    "statistics of a half type": (
        "layer_norm",
        with_result("statistics.inv_std", lambda s, t: s.half().to(s)),
    ),
}


def planted(name: str, wrong: Wrong) -> LayerSpec:
    spec = LAYERS[name]
    run: Any = spec.run
    return replace(spec, run=wrong(run))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_product_finds_it(engine: Engine, fault: str) -> None:
    layer, wrong = FAULTS[fault]
    spec = planted(layer, wrong)
    found = (
        case
        for case in cases(layer, PART)
        if any(faults(engine, case, spec)) and not any(faults(engine, case))
    )
    assert next(found, None) is not None


@pytest.mark.parametrize("fault", INACCURATE)
def test_the_bounds_find_it(engine: Engine, fault: str) -> None:
    layer, wrong = INACCURATE[fault]
    pairs = itertools.zip_longest(
        measured(engine, layer, full=False),
        measured(engine, layer, full=False, planted=planted(layer, wrong)),
    )
    assert any(right.ratio <= 1 < worse.ratio for right, worse in pairs)
