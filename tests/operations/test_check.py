"""Checks: what matches, and what is named."""

from typing import Any

import httpx
import numpy as np
import pytest

from app.layers import LAYERS
from tests.operations._checking import FLOOR, POOL, Checking

pytestmark = pytest.mark.anyio
CEIL = [[[[7, 9, 10], [17, 19, 20], [22, 24, 25]]]]


def named(answer: Any) -> list[Any]:
    """The diagnosis in short."""
    return [(one.get("fault"), one["options"]) for one in answer["diagnosis"]]


# What matches.


async def test_every_layers_own_answers_match(
    check: Checking, check_client: httpx.AsyncClient
) -> None:
    """In float32, every result of every case is within the tolerances of the reference."""
    for spec in LAYERS.values():
        for case in spec.cases:
            if case.body.get("dtype", "float32") != "float32":
                continue
            computed = await check_client.post(f"/v1/layers/{spec.name}", json=dict(case.body))
            whole = computed.json()
            expected = {
                name: value
                for name, value in whole.items()
                if name not in ("layer", "dtype", "device", "options", "explanation")
            }
            answer = await check(spec.name, case.body, expected)
            wrong = [tensor for tensor in answer["tensors"] if not tensor["match"]]
            assert answer["match"], (spec.name, case.name, wrong)
            assert answer["diagnosis"] == []
            assert answer["searched"] == {"hypotheses": 0, "complete": True}


async def test_a_match_tells_its_errors_and_tolerance(check: Checking) -> None:
    request = {"input": [[[1e4, -1e4, 1.0]]], "kernel_size": 3}
    answer = await check("avg_pool1d", request, {"output": [[[0.4]]]})
    assert answer["match"]
    (tensor,) = answer["tensors"]
    assert tensor["max_abs_error"] == pytest.approx(0.4 - 1 / 3)
    assert tensor["tolerance"] == {
        "atol": pytest.approx(1e-5 * 20001 / 3),
        "rtol": 1e-5,
        "ulp": 0,
        "terms": 3,
    }


async def test_bounds_of_the_request_replace_the_defaults(check: Checking) -> None:
    request, near = {"input": [1.0, 2.0]}, {"output": [1.0, 2.001]}
    assert not (await check("relu", request, near))["match"]
    assert (await check("relu", request, near, rtol=1e-3))["match"]
    assert (await check("relu", request, near, atol=2e-3))["match"]
    off = float(np.nextafter(np.float32(2), np.float32(3)))
    exactly = {"rtol": 0, "atol": 0}
    assert not (await check("relu", request, {"output": [1, off]}, **exactly))["match"]
    answer = await check("relu", request, {"output": [1, off]}, **exactly, ulp=1)
    assert answer["match"]
    assert answer["tensors"][0]["max_ulp"] == 1
    # Unscaled: the sum of large terms gets no more than what was asked for.
    sums = {"input": [[[1e4, -1e4, 1.0]]], "kernel_size": 3}
    assert not (await check("avg_pool1d", sums, {"output": [[[0.4]]]}, atol=1e-3))["match"]


async def test_units_in_the_last_place_are_of_the_dtype(check: Checking) -> None:
    for dtype, spacing in (("float16", 2.0**-10), ("bfloat16", 2.0**-7), ("float64", 2.0**-52)):
        body = {"input": [1.0, -1.0, 0.5], "dtype": dtype}
        answer = await check("relu", body, {"output": [1 + 3 * spacing, 0, 0.5]}, rtol=0, atol=0)
        assert answer["tensors"][0]["max_ulp"] == 3, dtype


async def test_what_is_not_finite_matches_its_like(check: Checking) -> None:
    request = {"input": ["NaN", "Infinity", "-Infinity", 1]}
    assert (await check("relu", request, {"output": ["NaN", "Infinity", 0, 1]}))["match"]
    answer = await check("relu", request, {"output": [1, "-Infinity", 0, "NaN"]})
    (tensor,) = answer["tensors"]
    assert (tensor["mismatched"], tensor["max_abs_error"]) == (3, "NaN")
    assert tensor["first_mismatch"] == {"index": [0], "expected": 1, "actual": "NaN"}


async def test_a_zero_of_the_other_sign_matches_with_a_note(check: Checking) -> None:
    answer = await check("relu", {"input": [-1.0, 2.0]}, {"output": [-0.0, 2.0]})
    assert answer["match"]
    assert answer["tensors"][0]["note"] == "1 zero has the other sign (-0.0)."


async def test_an_index_of_an_equal_element_of_the_window_matches_with_a_note(
    check: Checking,
) -> None:
    request = {"input": [[[5, 5, 1, 5]]], "kernel_size": 2}
    answer = await check("max_pool1d", request, {"indices": [[[1, 3]]]})
    assert answer["match"]
    assert "1 index points at another element" in answer["tensors"][0]["note"]
    answer = await check("max_pool1d", request, {"indices": [[[0, 1]]]})
    assert not answer["match"], "an equal element of another window is another element"
    last = {"input": [[[[5], [5], [1], [5]]]], "kernel_size": [1, 2], "layout": "channels_last"}
    turned = {**last, "input": np.array(last["input"]).reshape(1, 1, 4, 1).tolist()}
    answer = await check("max_pool2d", turned, {"indices": [[[[1], [3]]]]})
    assert answer["match"]


async def test_scalars_and_counts_are_results_too(check: Checking) -> None:
    row = {"input": [1.0, 3.0], "axis": -1, "eps": 0.0}
    answer = await check("layer_norm", row, {"statistics": {"mean": 2.0, "inv_std": 1}})
    assert answer["match"]
    batch = {"input": [[1.0], [3.0]], "training": True, "num_batches_tracked": 4}
    assert (await check("batch_norm1d", batch, {"running_stats": {"num_batches_tracked": 5}}))[
        "match"
    ]
    assert not (await check("batch_norm1d", batch, {"running_stats": {"num_batches_tracked": 6}}))[
        "match"
    ]


async def test_integers_are_compared_exactly(check: Checking) -> None:
    big = 2**62 + 1
    request = {"input": [[[big, 1]]], "kernel_size": 2, "dtype": "int64"}
    assert (await check("max_pool1d", request, {"output": [[[big]]]}))["match"]
    answer = await check("max_pool1d", request, {"output": [[[big - 1]]]}, rtol=1)
    assert answer["tensors"][0]["first_mismatch"] == {
        "index": [0, 0, 0],
        "expected": big - 1,
        "actual": big,
        "window": {
            "output": [0, 0, 0],
            "region": [[0, 2]],
            "padding_taps": 0,
            "argmax": [0],
            "ties": 1,
        },
    }


async def test_only_what_was_sent_is_needed(check: Checking) -> None:
    """No gradient is taken, and no index counted, that the client did not send."""
    request = {**POOL, "grad_output": "ones", "return_indices": True, "explain": True}
    assert (await check("max_pool2d", request, {"output_shape": [1, 1, 2, 2]}))["match"]


# What is named.


async def test_another_shape_is_explained_by_what_makes_it(check: Checking) -> None:
    answer = await check("max_pool2d", POOL, {"output": CEIL})
    assert named(answer)[0] == (None, {"ceil_mode": True})
    (tensor,) = answer["tensors"]
    assert tensor["note"] == "Its shape is [1, 1, 3, 3]; the reference's is [1, 1, 2, 2]."
    shapes = await check("max_pool2d", POOL, {"output_shape": [1, 1, 3, 3]})
    assert {"ceil_mode": True} in [options for _, options in named(shapes)]
    assert shapes["tensors"][0]["first_mismatch"] == {"index": [2], "expected": 3, "actual": 2}


async def test_a_gradient_of_another_outputs_shape_is_followed(check: Checking) -> None:
    """The client's gradient fits its own output, so the reference can only have the output."""
    gradient = np.ones((1, 1, 3, 3))
    to_input = np.zeros((1, 1, 5, 5))
    for row, column in np.ndindex(3, 3):
        to_input[0, 0, min(2 * row + 1, 4), min(2 * column + 1, 4)] += 1
    answer = await check(
        "max_pool2d",
        {**POOL, "grad_output": gradient.tolist()},
        {"output": CEIL, "gradients": {"input": to_input.tolist()}},
    )
    assert named(answer)[0] == (None, {"ceil_mode": True})
    assert answer["diagnosis"][0]["explains"] == ["output", "gradients.input"]


async def test_a_gradient_follows_axes_of_length_1(check: Checking) -> None:
    request = {"input": [[[[1, 2], [3, 6]]]], "grad_output": [[[[8]]]]}
    expected = {"output": [[3]], "gradients": {"input": [[[[2, 2], [2, 2]]]]}}
    answer = await check("global_avg_pool", request, expected)
    assert named(answer)[0] == (None, {"keepdims": False})


async def test_who_does_it_that_way_is_said(check: Checking) -> None:
    request = {"input": [[1, 2], [3, 5]], "training": True}
    answer = await check("batch_norm1d", request, {"running_stats": {"var": [1.0, 1.125]}})
    (one,) = answer["diagnosis"]
    assert one["options"] == {"running_var_estimator": "biased"}
    assert one["explains"] == ["running_stats.var"]
    assert one["message"] == (
        "Your running variance is the biased estimate (divided by n), as in Keras, ONNX and Flax "
        "by default; the request has `running_var_estimator: unbiased`."
    )
    assert one["more"] == "docs/check.md#running_var_estimator"


async def test_hypotheses_that_agree_are_all_listed(check: Checking) -> None:
    request = {"input": [[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]], "kernel_size": 2}
    answer = await check("max_pool2d", request, {"output": [[[[5, 6], [8, 9]]]]})
    assert named(answer) == [
        (None, {"ceil_mode": True}),
        (None, {"padding": "same_upper"}),
        (None, {"stride": 1}),
    ]
    message = answer["diagnosis"][0]["message"]
    assert "`padding: same_upper` and `stride: 1` give the same" in message
    assert "an input whose size the stride does not divide would tell them apart" in message


async def test_a_convention_is_one_change(check: Checking) -> None:
    x = np.random.default_rng(5).normal(size=(4, 2)).round(3)
    mean, var = x.mean(0), x.var(0)
    request = {"input": x.tolist(), "training": True}
    keras = {
        "output": ((x - mean) / np.sqrt(var + 1e-3)).tolist(),
        "running_stats": {"mean": (0.01 * mean).tolist(), "var": (0.99 + 0.01 * var).tolist()},
    }
    answer = await check("batch_norm1d", request, keras)
    assert (None, {"convention": "keras"}) in named(answer)


async def test_two_options_are_tried_together(check: Checking) -> None:
    x = np.random.default_rng(6).normal(size=(1, 1, 5)).round(3)
    padded = np.pad(x[0, 0], 1)
    counts = [2, 3, 2]
    output = [[[padded[2 * i : 2 * i + 3].sum() / counts[i] for i in range(3)]]]
    request = {
        "input": x.tolist(),
        "kernel_size": 3,
        "padding": 1,
        "grad_output": "ones",
    }
    answer = await check("avg_pool1d", request, {"output": output})
    assert (None, {"count_include_pad": False, "stride": 2}) not in named(answer)
    twos = {**request, "stride": 2, "input": np.pad(x, ((0, 0), (0, 0), (0, 1))).tolist()}
    rows = np.pad(np.array(twos["input"])[0, 0], (1, 2))
    counts = [2, 3, 3, 1]
    sums = [rows[2 * i : 2 * i + 3].sum() for i in range(4)]
    both = [[[total / count for total, count in zip(sums, counts, strict=True)]]]
    answer = await check("avg_pool1d", twos, {"output": both})
    assert (None, {"count_include_pad": False, "ceil_mode": True}) in named(answer)


async def test_a_fault_is_named(check: Checking) -> None:
    request = {"input": [[[-3, -1, -2, -5]]], "kernel_size": 3, "padding": 1, "stride": 1}
    answer = await check("max_pool1d", request, {"output": [[[0, -1, -1, 0]]]})
    assert ("zero-padded-maximum", {}) in named(answer)
    assert answer["diagnosis"][0]["more"] == "docs/check.md#zero-padded-maximum"


@pytest.mark.parametrize("name", ["max_pool2d", "batch_norm2d", "layer_norm", "conv1d"])
async def test_random_numbers_are_explained_by_nothing(
    check: Checking, check_client: httpx.AsyncClient, name: str
) -> None:
    body = dict(LAYERS[name].own_cases[0].body)
    whole = (await check_client.post(f"/v1/layers/{name}", json=body)).json()
    shape = np.shape(whole["output"])
    noise = np.random.default_rng(7).normal(size=shape)
    answer = await check(name, body, {"output": noise.tolist()})
    assert not answer["match"]
    assert answer["diagnosis"] == []
    assert answer["searched"]["hypotheses"] >= 10
    assert answer["searched"]["complete"]


async def test_nothing_is_named_that_explains_only_a_part(check: Checking) -> None:
    x = [[1.0, 2.0], [3.0, 5.0]]
    expected = {"running_stats": {"var": [1.0, 1.125], "mean": [9.0, 9.0]}}
    answer = await check("batch_norm1d", {"input": x, "training": True}, expected)
    assert named(answer) == []


async def test_the_worst_elements_come_with_their_windows(check: Checking) -> None:
    sent = np.array(FLOOR, float) + np.array([[[[0.5, 3], [0, -1]]]])
    answer = await check("max_pool2d", POOL, {"output": sent.tolist()})
    (tensor,) = answer["tensors"]
    assert tensor["first_mismatch"]["index"] == [0, 0, 0, 0]
    assert [one["index"] for one in tensor["worst"]] == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert tensor["worst"][0]["window"] == {
        "output": [0, 0, 0, 1],
        "region": [[0, 2], [2, 4]],
        "padding_taps": 0,
        "argmax": [1, 3],
        "ties": 1,
    }


async def test_a_large_input_is_searched_on_a_part_of_it(check: Checking) -> None:
    x = np.random.default_rng(8).normal(size=(8, 6, 20, 20)).round(3)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    counted = np.pad(np.ones_like(x), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    numbers = np.lib.stride_tricks.sliding_window_view(counted, (3, 3), (2, 3))
    output = windows.sum((-1, -2)) / numbers.sum((-1, -2))
    request = {"input": x.tolist(), "kernel_size": 3, "stride": 1, "padding": 1}
    answer = await check("avg_pool2d", request, {"output": output.tolist()})
    assert named(answer) == [(None, {"count_include_pad": False})]
    channels = np.random.default_rng(9).integers(-99, 99, size=(16, 9, 8, 8)) / 32
    mean, var = channels.mean((0, 2, 3)), channels.var((0, 2, 3), ddof=1)
    batch = {"input": channels.tolist(), "training": True, "eps": 1e-3}
    flat = (channels - mean[:, None, None]) / np.sqrt(var + 1e-3)[:, None, None]
    answer = await check("batch_norm2d", batch, {"output": flat.tolist()}, rtol=1e-6, atol=0)
    assert [fault for fault, _ in named(answer)] == ["variance-unbiased-output"]
