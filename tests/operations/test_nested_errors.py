"""Errors inside nested requests point to what was sent, however it is named, and none is a 500."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy

from tests._binary import FILE, JSON, problem

pytestmark = pytest.mark.anyio
ONE = np.ones(1, "f4")
RELU = {"layer": "relu"}


async def refused(client: httpx.AsyncClient, path: str, body: Any) -> tuple[str, str]:
    """The first error's pointer and code."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = FILE if isinstance(body, bytes) else JSON
    answer = await client.post(f"/v1/{path}", content=content, headers={"Content-Type": kind})
    first = problem(answer, 422)["errors"][0]
    return first["pointer"], first["code"]


def chain(**tensors: Any) -> bytes:
    rest = {"layers": [RELU, RELU]}
    return safetensors.numpy.save({"input": ONE, **tensors}, {"request": json.dumps(rest)})


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("layers", "#/layers"),
        ("layers.1", "#/layers/1"),
        ("layers.01.bias", "#/layers/01"),
        ("layers.\u0661.bias", "#/layers/\u0661"),
        ("layers.\u00b2.bias", "#/layers/\u00b2"),  # a digit to Python, and no number
        ("layers.2.bias", "#/layers/2"),
        ("layers.-1.bias", "#/layers/-1"),
        ("layers.1.a/b~", "#/layers/1/a~1b~0"),
    ],
)
async def test_names_in_a_file(client: httpx.AsyncClient, name: str, pointer: str) -> None:
    found, _ = await refused(client, "sequential", chain(**{name: ONE}))
    assert found == pointer


@pytest.mark.parametrize(
    ("expected", "pointer"),
    [
        ({"a/b~c": [1]}, "#/expected/a~1b~0c"),
        ({"a/b~c": {}}, "#/expected/a~1b~0c"),
        ({"a/b~c": None}, "#/expected/a~1b~0c"),
        ({"a.b": [1]}, "#/expected/a.b"),
        ({"gradients": {"x/y": [1]}}, "#/expected/gradients/x~1y"),
        ({"x" * 900: [1]}, f"#/expected/{'x' * 64}"),
    ],
)
async def test_names_of_results(
    client: httpx.AsyncClient, expected: dict[str, Any], pointer: str
) -> None:
    body = {"request": {"input": [1]}, "expected": expected}
    found, _ = await refused(client, "layers/relu/check", body)
    assert found == pointer


async def test_a_result_is_sent_once(client: httpx.AsyncClient) -> None:
    """As a member and by its dotted name: neither wins."""
    expected = {"gradients": {"input": [1]}, "gradients.input": [2]}
    body = {"request": {"input": [1], "grad_output": "ones"}, "expected": expected}
    found = await refused(client, "layers/relu/check", body)
    assert found == ("#/expected/gradients.input", "duplicate-field")


async def test_values_that_the_reference_refuses(client: httpx.AsyncClient) -> None:
    """Found while it runs, not while the check is read."""
    request = {"input": [[[4, 5]]], "indices": [[[0, 99]]], "kernel_size": 2}
    body = {"request": request, "expected": {"output_shape": [1, 1, 4]}}
    found, _ = await refused(client, "layers/max_unpool1d/check", body)
    assert found.startswith("#/request/indices")


async def test_folding_a_weight_without_inputs(client: httpx.AsyncClient) -> None:
    norm = {"running_mean": [1], "running_var": [1]}
    body = {"conv": {"weight": {"shape": [1, 0, 1], "data": []}}, "batch_norm": norm}
    assert (await refused(client, "fold", body))[0] == "#/conv/weight"


async def test_a_member_with_a_slash_hides_no_ragged_rows(client: httpx.AsyncClient) -> None:
    ragged = [[1, 2], [3], [4, 5, 6]]
    expected = {"gradients/input": ragged, "gradients": {"input": [[1, 2]]}}
    body = {"request": {"input": [[1, 2]], "grad_output": "ones"}, "expected": expected}
    found = await refused(client, "layers/relu/check", body)
    assert found == ("#/expected/gradients~1input/1", "ragged")
