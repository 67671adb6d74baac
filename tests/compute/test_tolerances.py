"""The scale of each result's sums, against sums of absolute values in plain numpy."""

from typing import Any

import numpy as np
import orjson
import pytest

from app.codecs import json
from app.compute import Engine
from app.compute.tolerances import RTOL, Scale, scales, tolerances
from app.layers import LAYERS, LayerSpec, compute_model, tensor_fields
from app.operations import validated
from app.settings import load_settings

ENGINE = Engine("cpu", load_settings(device="cpu").limits)


def planned(layer: str, body: dict[str, Any]) -> tuple[LayerSpec, Any, Any]:
    spec = LAYERS[layer]
    fields = json.decode(orjson.dumps(body), tensor_fields(spec), max_rank=8, max_list=64)
    call = validated(compute_model(spec), fields)
    return spec, call, ENGINE.plan(spec, call)[0]


def scaled(layer: str, body: dict[str, Any]) -> dict[str, Scale]:
    return scales(*planned(layer, body), ENGINE.device)


def test_conv_sums_the_absolute_products() -> None:
    rng = np.random.default_rng(1)
    x, w, g = rng.normal(size=(2, 3, 7)), rng.normal(size=(4, 3, 3)), rng.normal(size=(2, 4, 5))
    body = {"input": x.tolist(), "weight": w.tolist(), "grad_output": g.tolist()}
    found = scaled("conv1d", {**body, "dtype": "float64"})
    output, to_weight = np.zeros((2, 4, 5)), np.zeros((4, 3, 3))
    for n, o, i in np.ndindex(2, 4, 5):
        window = np.abs(x[n, :, i : i + 3])
        output[n, o, i] = (np.abs(w[o]) * window).sum()
        to_weight[o] += np.abs(g[n, o, i]) * window
    np.testing.assert_allclose(found["output"].size, output)
    np.testing.assert_allclose(found["gradients.weight"].size, to_weight)
    np.testing.assert_allclose(found["gradients.bias"].size, np.abs(g).sum((0, 2)))
    lengths = {name: scale.terms for name, scale in found.items()}
    assert lengths == {
        "output": 10,
        "gradients.input": 12,
        "gradients.weight": 10,
        "gradients.bias": 10,
    }


def test_terms_that_cancel_leave_room_for_their_rounding() -> None:
    body = {"input": [[[1e4, -1e4, 1.0]]], "kernel_size": 3}
    tolerance = tolerances(*planned("avg_pool1d", body), ENGINE.device)["output"]
    assert tolerance.atol == pytest.approx(1e-5 * 20001 / 3)
    assert (tolerance.rtol, tolerance.ulp, tolerance.terms) == (1e-5, 0, 3)


def test_a_maximum_sums_nothing_but_its_gradient_does() -> None:
    body = {"input": [[[1, 5, 2]]], "kernel_size": 2, "stride": 1, "grad_output": [[[3, -3]]]}
    found = scaled("max_pool1d", body)
    assert "output" not in found
    assert found["gradients.input"].size.tolist() == [[[0, 6, 0]]]


def test_a_layout_turns_the_scale_too() -> None:
    x = np.arange(1.0, 25).reshape(1, 3, 4, 2)
    body = {"input": x.tolist(), "kernel_size": 2, "layout": "channels_last"}
    assert scaled("avg_pool2d", body)["output"].size.shape == (1, 1, 2, 2)


def test_a_large_mean_allows_some_roundings_of_it() -> None:
    x = 1e4 + np.random.default_rng(2).normal(size=(4, 2, 8))
    scale = scaled("batch_norm1d", {"input": x.tolist(), "training": True})["output"].size
    off = RTOL["float32"] * scale
    assert (off > 8 * 2**-24 * 1e4).all()  # a mean that is off by some of its own roundings
    assert (off < 0.05).all()  # and not by the size of the input
    near = scaled("batch_norm1d", {"input": (x - 1e4).tolist(), "training": True})["output"].size
    assert (RTOL["float32"] * near < 1e-4).all()


def test_what_is_not_finite_allows_no_error() -> None:
    body = {"input": [[["Infinity", 1, "NaN", 2, 3, 4]]], "kernel_size": 2}
    size = scaled("avg_pool1d", body)["output"].size
    assert size.tolist() == [[[0, 0, 3.5]]]


@pytest.mark.parametrize("name", LAYERS)
def test_every_scale_belongs_to_a_result_and_has_its_shape(name: str) -> None:
    spec = LAYERS[name]
    for case in spec.cases:
        spec, call, plan = planned(name, dict(case.body))
        answer = ENGINE.run(spec, call, plan)
        for result, scale in scales(spec, call, plan, ENGINE.device).items():
            np.broadcast_to(scale.size, answer[result].shape)
            assert scale.terms >= 1
            assert (scale.size >= 0).all()
