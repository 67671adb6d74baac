"""What is refused of a chain, with pointers into it; limits; and hostile requests."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from app.main import create_app
from app.settings import Settings
from tests.operations.test_sequential import BINARY, CONV, IMAGE, PATH, POOL, RELU, posted

pytestmark = pytest.mark.anyio
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no layers": ({}, "#/layers", "missing"),
    "an empty list": ({"layers": []}, "#/layers", "too-short"),
    "an object": ({"layers": {"layer": "relu"}}, "#/layers", "tensor-form"),
    "a number": ({"layers": [RELU, 3]}, "#/layers/1", "layer-type"),
    "a list": ({"layers": [[RELU]]}, "#/layers/0", "layer-type"),
    "no name": ({"layers": [{"kernel_size": 2}]}, "#/layers/0/layer", "missing"),
    "a wrong name": ({"layers": [RELU, {"layer": "relo"}]}, "#/layers/1/layer", "unknown-layer"),
    "a name of another type": ({"layers": [{"layer": 7}]}, "#/layers/0/layer", "string-type"),
    "several inputs": (
        {"layers": [{"layer": "max_unpool2d"}]},
        "#/layers/0/layer",
        "several-inputs",
    ),
    "replicas": (
        {"layers": [RELU, {"layer": "sync_batch_norm"}]},
        "#/layers/1/layer",
        "several-inputs",
    ),
    "an input of its own": (
        {"layers": [RELU, {**RELU, "input": [1]}]},
        "#/layers/1/input",
        "unknown-field",
    ),
    "a dtype of its own": (
        {"layers": [{**RELU, "dtype": "float16"}]},
        "#/layers/0/dtype",
        "unknown-field",
    ),
    "a gradient of its own": (
        {"layers": [{**RELU, "grad_output": "ones"}]},
        "#/layers/0/grad_output",
        "unknown-field",
    ),
    "an encoding of its own": (
        {"layers": [{**RELU, "encoding": "flat"}]},
        "#/layers/0/encoding",
        "unknown-field",
    ),
    "an unknown field": (
        {"layers": [RELU, {**POOL, "kernel": 2}]},
        "#/layers/1/kernel",
        "unknown-field",
    ),
    "a tensor that it has not": (
        {"layers": [{**RELU, "weight": [1]}]},
        "#/layers/0/weight",
        "unknown-field",
    ),
    "a wrong option": (
        {"layers": [RELU, {**POOL, "stride": [1, 0]}]},
        "#/layers/1/stride/1",
        "greater-than-equal",
    ),
    "a wrong padding": (
        {"layers": [RELU, RELU, {**POOL, "padding": 2}]},
        "#/layers/2/padding",
        "out-of-range",
    ),
    "a wrong weight": (
        {"layers": [RELU, {**CONV, "weight": [[[[1]], [[2]]]]}]},
        "#/layers/1/weight",
        "shape-mismatch",
    ),
    "a ragged weight": (
        {"layers": [RELU, {**CONV, "weight": [[[[1, 2], [3]]]]}]},
        "#/layers/1/weight/0/0/1",
        "ragged",
    ),
    "a weight of words": (
        {"layers": [{**CONV, "weight": [[[["a"]]]]}]},
        "#/layers/0/weight/0/0/0/0",
        "not-a-number",
    ),
    "a rank for the first": (
        {"layers": [{"layer": "max_pool1d", "kernel_size": 2}]},
        "#/input",
        "wrong-rank",
    ),
    "a rank in between": (
        {"layers": [RELU, {"layer": "max_pool1d", "kernel_size": 2}]},
        "#/layers/1",
        "wrong-rank",
    ),
    "a window in between": (
        {"layers": [POOL, POOL, POOL]},
        "#/layers/2/kernel_size",
        "window-too-large",
    ),
    "a negative variance": (
        {
            "layers": [
                CONV,
                {
                    "layer": "batch_norm2d",
                    "training": False,
                    "running_mean": [0],
                    "running_var": [-1],
                },
            ]
        },
        "#/layers/1/running_var",
        "out-of-range",
    ),
    "no training": (
        {"layers": [CONV, {"layer": "batch_norm2d"}]},
        "#/layers/1/training",
        "missing",
    ),
    "an index": (
        {"layers": [RELU], "return_intermediate": [0, 1]},
        "#/return_intermediate/1",
        "out-of-range",
    ),
    "a negative index": (
        {"layers": [RELU], "return_intermediate": [-1]},
        "#/return_intermediate/0",
        "greater-than-equal",
    ),
    "a flag as a word": (
        {"layers": [RELU], "return_intermediate": "yes"},
        "#/return_intermediate",
        "bool-type",
    ),
    "a gradient of another shape": (
        {"layers": [RELU, POOL], "grad_output": IMAGE},
        "#/grad_output",
        "shape-mismatch",
    ),
    "gradients of integers": (
        {"layers": [POOL, POOL], "dtype": "int8", "grad_output": "ones"},
        "#/grad_output",
        "no-gradient",
    ),
    "integers for a convolution": (
        {"layers": [POOL, CONV], "dtype": "int8"},
        "#/dtype",
        "literal-error",
    ),
    "an unknown dtype": ({"layers": [RELU], "dtype": "float8"}, "#/dtype", "literal-error"),
    "no input": ({"layers": [RELU], "input": None}, "#/input", "tensor-type"),
    "a field too many": ({"layers": [RELU], "output": 3}, "#/output", "unknown-field"),
}


@pytest.mark.parametrize("wrong", REFUSED)
async def test_errors_point_into_the_chain(client: httpx.AsyncClient, wrong: str) -> None:
    body, pointer, code = REFUSED[wrong]
    response = await client.post(PATH, json={"input": IMAGE, **body})
    assert response.status_code == 422, response.text
    first = response.json()["errors"][0]
    assert (first["pointer"], first["code"]) == (pointer, code), response.text


async def test_an_error_names_the_layer_and_its_field(client: httpx.AsyncClient) -> None:
    body = {"input": IMAGE, "layers": [RELU, {**POOL, "padding": 2}]}
    problem = (await client.post(PATH, json=body)).json()
    assert problem["detail"].startswith("layers/1/padding: expected at most half of")
    assert problem["detail"] == problem["errors"][0]["detail"]


async def test_empty_windows_keep_their_type(client: httpx.AsyncClient) -> None:
    pool = {"layer": "max_pool1d", "kernel_size": 2, "dilation": 2, "padding": 1}
    response = await client.post(PATH, json={"input": [[[1]]], "layers": [RELU, pool]})
    problem = response.json()
    assert problem["type"] == "/errors/empty-window", problem
    assert problem["errors"][0]["pointer"] == "#/layers/1/padding"


async def small(**limits: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(Settings(log_level="error", **limits)))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_a_chain_has_so_many_layers_at_most(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/info")).json()["limits"]["max_layers"] == 64
    for path, start in ((PATH, {"input": [1]}), (f"{PATH}/shape", {"input_shape": [1]})):
        answer = await posted(client, path, **start, layers=[RELU] * 64)
        assert len(answer["layers"]) == 64
        response = await client.post(path, json={**start, "layers": [RELU] * 65})
        assert response.json()["errors"][0]["pointer"] == "#/layers"
        assert "at most 64" in response.json()["detail"]
    request = json.dumps({"layers": [RELU] * 65})
    content = save({"input": np.ones(1, np.float32)}, {"request": request})
    response = await client.post(PATH, content=content, headers={"Content-Type": BINARY})
    assert response.json()["errors"][0]["pointer"] == "#/layers"
    async with await small(max_layers=2) as http:
        response = await http.post(PATH, json={"input": [1], "layers": [RELU] * 3})
        assert "at most 2" in response.json()["detail"]


async def test_the_cost_of_a_chain_is_the_sum() -> None:
    grow = {"layer": "adaptive_avg_pool1d", "output_size": 20_000}
    async with await small(max_cost_ms=1) as http:
        one = await http.post(PATH, json={"input": [[[1, 2]]], "layers": [grow]})
        assert one.status_code == 200, one.text
        problem = (await http.post(PATH, json={"input": [[[1, 2]]], "layers": [grow] * 9})).json()
        assert problem["type"] == "/errors/cost-limit"
        assert "adaptive_avg_pool1d" in problem["detail"]


async def test_the_memory_of_a_chain_is_counted_with_its_intermediates() -> None:
    """With gradients, every layer's values are held until the backward pass; without, one's."""
    grow = {"layer": "adaptive_avg_pool1d", "output_size": 20_000}
    body = {"input": [[[1, 2]]], "layers": [grow] * 20}
    async with await small(max_output_bytes=1 << 20) as http:
        assert (await http.post(PATH, json=body)).status_code == 200
        problem = (await http.post(PATH, json={**body, "grad_output": "ones"})).json()
        assert problem["type"] == "/errors/output-too-large", problem


@pytest.fixture
async def plain() -> AsyncIterator[httpx.AsyncClient]:
    async with await small() as http:
        yield http


HOSTILE: dict[str, bytes] = {
    "deep": b'{"input": [1], "layers": ' + b"[" * 500 + b"]" * 500 + b"}",
    "an option as large as a tensor": b'{"input": [1], "layers": [{"layer": "relu", "axes": ['
    + b"0," * 9000
    + b"0]}]}",
    "a layer of many fields": b'{"input": [1], "layers": [{"layer": "relu", '
    + b", ".join(b'"f%d": 1' % n for n in range(300))
    + b"}]}",
    "a field twice": b'{"input": [1], "layers": [{"layer": "relu", "layer": "relu"}]}',
    "a long name": b'{"input": [1], "layers": [{"layer": "' + b"x" * 5000 + b'"}]}',
    "null": b'{"input": [1], "layers": [null]}',
    "huge lengths": b'{"input": {"shape": [4294967296, 4294967296, 0], "data": []}, "layers": '
    b'[{"layer": "relu"}, {"layer": "global_max_pool"}]}',
    "growth": b'{"input": [[[1]]], "layers": ['
    + b", ".join([b'{"layer": "adaptive_max_pool1d", "output_size": 2147483647}'] * 3)
    + b"]}",
    "a pointer": b'{"input": [1], "layers": [{"layer": "relu", "a/b~c": 1}]}',
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_chains_are_refused(plain: httpx.AsyncClient, name: str) -> None:
    headers = {"Content-Type": "application/json"}
    for path in (PATH, f"{PATH}/shape"):
        body = (
            HOSTILE[name].replace(b'"input":', b'"input_shape":')
            if "shape" in path
            else HOSTILE[name]
        )
        response = await plain.post(path, content=body, headers=headers)
        assert response.status_code in (200, 400, 422), response.text
        assert response.status_code != 200 or (name == "growth" and path != PATH)
        assert len(response.content) <= 8192
