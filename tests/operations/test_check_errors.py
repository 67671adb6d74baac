"""Checks that are refused: where their errors point; and checks of bytes."""

from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.operations._checking import FLOOR, POOL, Checking

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("layer", "body", "pointer", "said"),
    [
        ("relu", {}, "#/request", "required"),
        ("relu", {"request": {"input": [1]}}, "#/expected", "required"),
        ("relu", {"request": {"input": [1]}, "expected": {}}, "#/expected", "at least one"),
        ("relu", {"request": {"input": [1]}, "expected": 3}, "#/expected", "dictionary"),
        ("relu", {"request": [], "expected": {"output": [1]}}, "#/request", "dictionary"),
        ("relu", {"request": {}, "expected": {"output": [1]}}, "#/request/input", "required"),
        (
            "max_pool2d",
            {"request": {**POOL, "kernel_size": 0}, "expected": {"output": FLOOR}},
            "#/request/kernel_size",
            "greater than or equal to 1",
        ),
        (
            "max_pool2d",
            {"request": {**POOL, "kernel_size": 9}, "expected": {"output": FLOOR}},
            "#/request/kernel_size",
            "spans 9 elements",
        ),
        (
            "relu",
            {"request": {"input": [[1], [2, 3]]}, "expected": {"output": [1]}},
            "#/request/input/1",
            "expected a row of length 1",
        ),
        (
            "relu",
            {"request": {"input": [1]}, "expected": {"output": [True]}},
            "#/expected/output/0",
            "expected a number",
        ),
        (
            "relu",
            {"request": {"input": [1]}, "expected": {"otput": [1]}},
            "#/expected/otput",
            "did you mean output?; expected one of output, gradients.input, output_shape",
        ),
        (
            "relu",
            {"request": {"input": [1]}, "expected": {"gradients": {"input": [1]}}},
            "#/request/grad_output",
            'Send the gradient of the loss in the output, or "ones"',
        ),
        (
            "relu",
            {"request": {"input": [1], "grad_output": "ones"},
             "expected": {"gradients": {"weight": [1]}}},
            "#/expected/gradients/weight",
            "gradients.input",
        ),
        (
            "batch_norm1d",
            {"request": {"input": [[1], [2]], "training": False, "running_mean": [0],
                         "running_var": [1]},
             "expected": {"running_stats": {"mean": [1]}}},
            "#/expected/running_stats/mean",
            "this request answers no such result",
        ),
        (
            "max_pool1d",
            {"request": {"input": [[[1, 2]]], "kernel_size": 2, "dtype": "int8"},
             "expected": {"gradients": {"input": [[[1, 2]]]}}},
            "#/expected/gradients/input",
            "this request answers no such result",
        ),
        (
            "relu",
            {"request": {"input": [1]}, "expected": {"output_shape": [1.5]}},
            "#/expected/output_shape",
            "expected a list of lengths",
        ),
        (
            "relu",
            {"request": {"input": [1]}, "expected": {"output": None}},
            "#/expected/output",
            "expected a tensor, or a number of dtype float32; got null",
        ),
        ("relu", {"request": {"input": [1]}, "expected": {"output": [1]}, "rtol": -1},
         "#/rtol", "greater than or equal to 0"),
        ("relu", {"request": {"input": [1]}, "expected": {"output": [1]}, "ulp": 0.5},
         "#/ulp", "integer"),
        ("relu", {"request": {"input": [1]}, "expected": {"output": [1]}, "tolerance": 1},
         "#/tolerance", "unknown field"),
        (
            "relu",
            {"request": {"input": [1], "dtype": "float16"}, "expected": {"output": [1e6]}},
            "#/expected/output/0",
            "out of range for float16",
        ),
    ],
)  # fmt: skip
async def test_errors_point_into_the_check(
    check: Checking, layer: str, body: Any, pointer: str, said: str
) -> None:
    where, detail = await check.refused(layer, body)
    assert where == pointer
    assert said in detail


@pytest.mark.parametrize(
    "expected",
    [
        {"output": [[[[[[[[[1]]]]]]]]]},
        {"output": {"shape": [2**40], "data": [1]}},
        {"output": {"output": {"output": [1]}}},
        {"outputs": [[1], [1]]},
        {"": [1]},
        {"a.b/c~d": [1]},
        {"x" * 5000: [1]},
        {"replicas": [{"output": [1]}] * 3},
        {"gradients": [1]},
        {"gradients": 7},
        {"output_shape": [2**70]},
        {"output_shape": {"shape": [1], "data": [1]}},
        {"output_shapes": [[1]]},
        {"running_stats": {"mean": {"mean": {"mean": 1}}}},
        {"output": "NaN", "indices": "x"},
    ],
)
async def test_hostile_results_are_refused(check: Checking, expected: Any) -> None:
    response = await check.post("relu", {"request": {"input": [1]}, "expected": expected})
    assert response.status_code == 422, response.text
    assert len(response.content) < 8192
    assert response.json()["errors"][0]["pointer"].startswith("#/expected")


async def test_empty_tensors_are_compared(check: Checking) -> None:
    request = {"input": {"shape": [0, 2, 4], "data": []}, "kernel_size": 2}
    assert (await check("max_pool1d", request, {"output": {"shape": [0, 2, 2], "data": []}}))[
        "match"
    ]
    answer = await check("max_pool1d", request, {"output": {"shape": [0, 2, 3], "data": []}})
    assert not answer["match"]


async def test_a_safetensors_file_is_checked_in_its_own_dtype(
    check_client: httpx.AsyncClient,
) -> None:
    x = np.array([1.0, -2.0], np.float16)
    body = save(
        {"request.input": x, "expected.output": np.maximum(x, 0)}, {"request": '{"rtol": 0}'}
    )
    headers = {"Content-Type": "application/vnd.safetensors"}
    answer = await check_client.post("/v1/layers/relu/check", content=body, headers=headers)
    assert answer.json()["match"], answer.text
    assert answer.json()["tensors"][0]["tolerance"]["rtol"] == 0
    mixed = save({"request.input": x, "expected.output": np.maximum(x, 0).astype("f4")})
    answer = await check_client.post("/v1/layers/relu/check", content=mixed, headers=headers)
    assert answer.json()["errors"][0]["pointer"] == "#/expected/output"
    binary = {**headers, "Accept": "application/vnd.safetensors"}
    answer = await check_client.post("/v1/layers/relu/check", content=body, headers=binary)
    assert b'"match": true' in answer.content or b'\\"match\\":true' in answer.content
