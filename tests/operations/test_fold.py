"""Folding against convolution and batch norm written out in NumPy."""

import itertools
import json
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from app.layers import LAYERS
from app.main import create_app
from app.settings import Settings

pytestmark = pytest.mark.anyio
PATH = "/v1/fold"
BINARY = "application/vnd.safetensors"
Array = np.ndarray[Any, Any]
ROUNDED = {"float64": 1e-12, "float32": 1e-4}
LAYOUTS = (
    ("oihw", "hwio") if "weight_layout" in LAYERS["conv2d"].options.model_fields else ("oihw",)
)
NORM = {"running_mean": [0.5, -1], "running_var": [4, 0.25]}
CONV = {"weight": [[[[1, -1], [2, 0]]], [[[0, 1], [1, 3]]]], "bias": [0.5, -1]}


def convolved(x: Array, weight: Array, bias: Array, groups: int) -> Array:
    """`(N, C, *spatial) -> (N, out, *out)`: every window with stride 1, tap by tap."""
    dims, kernel = x.ndim - 2, weight.shape[2:]
    lengths = [length - size + 1 for length, size in zip(x.shape[2:], kernel, strict=True)]
    output = np.zeros((len(x), len(weight), *lengths))
    per_group, ins = len(weight) // groups, weight.shape[1]
    for out, into, tap in itertools.product(
        range(len(weight)), range(ins), itertools.product(*map(range, kernel))
    ):
        channel = out // per_group * ins + into
        window = tuple(slice(t, t + n) for t, n in zip(tap, lengths, strict=True))
        output[:, out] += weight[(out, into, *tap)] * x[(slice(None), channel, *window)]
    return output + bias.reshape(-1, *[1] * dims)


def normalized(x: Array, norm: dict[str, Array], eps: float) -> Array:
    """Batch norm with the running statistics."""
    mean, var, weight, bias = (
        norm[name].reshape(-1, *[1] * (x.ndim - 2))
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    result: Array = (x - mean) / np.sqrt(var + eps) * weight + bias
    return result


async def folded(client: httpx.AsyncClient, **body: Any) -> Any:
    response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dims", [1, 2, 3])
async def test_the_folded_convolution_does_what_the_pair_does(
    client: httpx.AsyncClient, dims: int, groups: int, dtype: str, layout: str
) -> None:
    draw = np.random.default_rng(dims * 10 + groups)
    kernel = (3, 2, 1)[:dims]
    weight = draw.standard_normal((8, 4 // groups, *kernel)).astype(dtype)
    bias = draw.standard_normal(8).astype(dtype)
    norm = {
        name: draw.standard_normal(8).astype(dtype) for name in ("weight", "bias", "running_mean")
    }
    norm["running_var"] = (draw.random(8) + 0.1).astype(dtype)
    sent = weight if layout == "oihw" else np.moveaxis(weight, (0, 1), (-1, -2))
    conv: dict[str, Any] = {"weight": sent.tolist(), "bias": bias.tolist(), "groups": groups}
    if len(LAYOUTS) > 1:
        conv["weight_layout"] = layout
    parts = {name: value.tolist() for name, value in norm.items()}
    answer = await folded(client, conv=conv, batch_norm={**parts, "eps": 0.01}, dtype=dtype)
    assert np.shape(answer["weight"]) == sent.shape
    found = np.array(answer["weight"])
    found = found if layout == "oihw" else np.moveaxis(found, (-1, -2), (0, 1))
    x = draw.standard_normal((3, 4, *(5, 4, 3)[:dims]))
    exact = {name: value.astype("f8") for name, value in norm.items()}
    pair = normalized(convolved(x, weight.astype("f8"), bias.astype("f8"), groups), exact, 0.01)
    one = convolved(x, found, np.array(answer["bias"]), groups)
    assert np.abs(one - pair).max() < ROUNDED[dtype] * np.abs(pair).max()
    assert 0 < answer["max_abs_error"] < ROUNDED[dtype] * 10
    unrounded = weight * (norm["weight"] / np.sqrt(norm["running_var"] + 0.01)).reshape(
        -1, *[1] * (dims + 1)
    )
    assert np.abs(found - unrounded).max() < ROUNDED[dtype]


async def test_the_numbers_are_those_worked_out_by_hand(client: httpx.AsyncClient) -> None:
    """Scale 2 / sqrt(4) = 1, 1 / sqrt(1/4) = 2, bias (0.5 - 0.5) * 1 + 3 and (-1 + 1) * 2 + 1."""
    norm = {**NORM, "weight": [2, 1], "bias": [3, 1], "eps": 0}
    answer = await folded(client, conv=CONV, batch_norm=norm)
    assert answer["weight"] == [[[[1, -1], [2, 0]]], [[[0, 2], [2, 6]]]]
    assert answer["bias"] == [3, 1]
    assert answer["max_abs_error"] < 1e-14


async def test_what_is_left_out_is_ones_and_zeros(client: httpx.AsyncClient) -> None:
    """Scale 1/2 and 2; bias -0.5 / 2 and 1 * 2."""
    answer = await folded(
        client, conv={"weight": CONV["weight"]}, batch_norm={**NORM, "eps": 0}, dtype="float64"
    )
    assert answer["weight"] == [[[[0.5, -0.5], [1, 0]]], [[[0, 2], [2, 6]]]]
    assert answer["bias"] == [-0.25, 2]


@pytest.mark.parametrize(("convention", "eps"), [("torch", 1e-5), ("keras", 1e-3), ("flax", 1e-5)])
async def test_eps_is_the_conventions(
    client: httpx.AsyncClient, convention: str, eps: float
) -> None:
    """Also where only the batch norm says so; and an eps that is sent wins."""
    norm = {"running_mean": [0], "running_var": [1]}
    conv: dict[str, Any] = {"weight": [[[1]]]}
    for body in (
        {"convention": convention, "batch_norm": norm},
        {"batch_norm": {**norm, "convention": convention}},
    ):
        answer = await folded(client, conv=conv, dtype="float64", **body)
        assert answer["weight"][0][0][0] == pytest.approx((1 + eps) ** -0.5, rel=1e-15)
    answer = await folded(
        client, conv=conv, dtype="float64", convention=convention, batch_norm={**norm, "eps": 3}
    )
    assert answer["weight"] == [[[0.5]]]


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 1e-3), ("float16", 1e-5)])
async def test_the_error_is_that_of_rounding(
    client: httpx.AsyncClient, dtype: str, least: float
) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).tolist()
    norm = {"running_mean": [0.1] * 4, "running_var": [0.3] * 4}
    answer = await folded(client, conv={"weight": weight}, batch_norm=norm, dtype=dtype)
    assert least < answer["max_abs_error"] < 1


async def test_an_overflow_is_told(client: httpx.AsyncClient) -> None:
    norm = {"running_mean": [0], "running_var": [1e-7], "weight": [60000], "eps": 0}
    answer = await folded(client, conv={"weight": [[[60000]]]}, batch_norm=norm, dtype="float16")
    assert answer["weight"] == [[["Infinity"]]]
    assert answer["max_abs_error"] in ("NaN", "Infinity")


@pytest.mark.parametrize("groups", [1, 600, 1200])
async def test_large_weights_are_folded_part_by_part(
    client: httpx.AsyncClient, groups: int
) -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((1200, 1200 // groups, 3), dtype=np.float32)
    var = draw.random(1200, dtype=np.float32) + 0.5
    tensors = {
        "conv.weight": weight,
        "batch_norm.running_mean": np.zeros(1200, np.float32),
        "batch_norm.running_var": var,
    }
    request = {"conv": {"groups": groups}, "batch_norm": {"eps": 0}}
    content = save(tensors, {"request": json.dumps(request)})
    headers = {"Content-Type": BINARY, "Accept": BINARY}
    response = await client.post(PATH, content=content, headers=headers)
    assert response.status_code == 200, response.text
    expected = weight.astype("f8") / np.sqrt(var.astype("f8"))[:, None, None]
    assert np.array_equal(load(response.content)["weight"], expected.astype("f4"))


async def test_the_weights_dtype_decides_in_safetensors(client: httpx.AsyncClient) -> None:
    tensors = {
        "conv.weight": np.ones((1, 1, 1)),
        "batch_norm.running_mean": np.zeros(1),
        "batch_norm.running_var": np.full(1, 3.0),
    }
    headers = {"Content-Type": BINARY, "Accept": BINARY}
    response = await client.post(PATH, content=save(tensors), headers=headers)
    assert response.status_code == 200, response.text
    assert load(response.content)["weight"].item() == pytest.approx((3 + 1e-5) ** -0.5, rel=1e-15)
    tensors["batch_norm.running_var"] = np.full(1, 3, np.float32)
    response = await client.post(PATH, content=save(tensors), headers=headers)
    assert response.json()["errors"][0]["pointer"] == "#/batch_norm/running_var", response.text


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no convolution": ({"conv": None}, "#/conv", "dict-type"),
    "a list": ({"conv": [CONV]}, "#/conv", "dict-type"),
    "no weight": ({"conv": {}}, "#/conv/weight", "missing"),
    "a vector": ({"conv": {"weight": [1, 2]}}, "#/conv/weight", "wrong-rank"),
    "an empty weight": ({"conv": {"weight": [[[]], [[]]]}}, "#/conv/weight", "empty-axis"),
    "a ragged weight": ({"conv": {"weight": [[[1, 2]], [[1]]]}}, "#/conv/weight/1/0", "ragged"),
    "a wrong bias": ({"conv": {**CONV, "bias": [1]}}, "#/conv/bias", "shape-mismatch"),
    "groups": ({"conv": {**CONV, "groups": 3}}, "#/conv/groups", "shape-mismatch"),
    "padding": ({"conv": {**CONV, "padding": [1, 1, 1]}}, "#/conv/padding", "wrong-length"),
    "an extent": ({"conv": {**CONV, "dilation": 5000}}, "#/conv/dilation", "out-of-range"),
    "a wrong name": ({"conv": {**CONV, "strides": 1}}, "#/conv/strides", "unknown-field"),
    "an input": ({"conv": {**CONV, "input": [1]}}, "#/conv/input", "unknown-field"),
    "no statistics": ({"batch_norm": {}}, "#/batch_norm/running_mean", "missing"),
    "no variance": (
        {"batch_norm": {"running_mean": [1, 2]}},
        "#/batch_norm/running_var",
        "missing",
    ),
    "too few": (
        {"batch_norm": {"running_mean": [1], "running_var": [1]}},
        "#/batch_norm/running_mean",
        "shape-mismatch",
    ),
    "a negative variance": (
        {"batch_norm": {"running_mean": [1, 1], "running_var": [1, -1]}},
        "#/batch_norm/running_var",
        "out-of-range",
    ),
    "nothing to divide by": (
        {"batch_norm": {"running_mean": [1, 1], "running_var": [1, 0], "eps": 0}},
        "#/batch_norm/running_var",
        "out-of-range",
    ),
    "a negative eps": (
        {"batch_norm": {**NORM, "eps": -1}},
        "#/batch_norm/eps",
        "greater-than-equal",
    ),
    "training": (
        {"batch_norm": {**NORM, "training": True}},
        "#/batch_norm/training",
        "literal-error",
    ),
    "an unknown dtype": ({"dtype": "float8"}, "#/dtype", "literal-error"),
    "a field too many": ({"input": [1]}, "#/input", "unknown-field"),
}


@pytest.mark.parametrize("wrong", REFUSED)
async def test_errors_point_into_the_parts(client: httpx.AsyncClient, wrong: str) -> None:
    body, pointer, code = REFUSED[wrong]
    response = await client.post(PATH, json={"conv": CONV, "batch_norm": NORM, **body})
    assert response.status_code == 422, response.text
    first = response.json()["errors"][0]
    assert (first["pointer"], first["code"]) == (pointer, code), response.text


async def test_limits_hold() -> None:
    transport = httpx.ASGITransport(create_app(Settings(max_output_bytes=1024, log_level="error")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        problem = (await http.post(PATH, json={"conv": CONV, "batch_norm": NORM})).json()
        assert problem["type"] == "/errors/output-too-large"
