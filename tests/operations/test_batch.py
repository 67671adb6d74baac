"""Batches: each request is answered as it would be alone, and refused alone."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.api.problems import refusal
from app.codecs import json as json_codec
from app.compute import Engine
from app.errors import RequestError
from app.layers import LAYERS
from app.main import create_app
from app.operations import SERVICE_OPERATIONS, Context
from app.schemas.tensors import TensorField
from app.settings import Settings

pytestmark = pytest.mark.anyio
TEXT = {"Content-Type": "application/json"}


async def alone(client: httpx.AsyncClient, request: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of one request of a batch, posted to its layer's own path."""
    fields = {name: value for name, value in request.items() if name not in ("layer", "operation")}
    path = f"/v1/layers/{request['layer']}"
    if "input_shape" in request or "input_shapes" in request:
        path += "/shape"
    response = await client.post(path, json=fields)
    return response.status_code, response.content


def without_id(problem: Any) -> Any:
    return {name: value for name, value in problem.items() if name != "request_id"}


async def check_as_alone(client: httpx.AsyncClient, requests: list[dict[str, Any]]) -> None:
    response = await client.post("/v1/batch", json={"requests": requests})
    assert response.status_code == 200, response.text
    answers = response.json()["responses"]
    assert len(answers) == len(requests)
    for request, answer in zip(requests, answers, strict=True):
        status, body = await alone(client, request)
        assert answer["status"] == status
        assert without_id(answer["body"]) == without_id(json.loads(body))
        if status == 200:
            assert body in response.content, "bit for bit"


async def test_every_layers_cases_are_answered_as_alone(client: httpx.AsyncClient) -> None:
    for spec in LAYERS.values():
        await check_as_alone(client, [{"layer": spec.name, **case.body} for case in spec.cases])


async def test_each_encoding_and_dtype_is_kept(client: httpx.AsyncClient) -> None:
    await check_as_alone(
        client,
        [
            {"layer": "relu", "input": [1.5, -1], "dtype": dtype, "encoding": encoding}
            for dtype in ("float32", "float64", "float16", "bfloat16")
            for encoding in ("nested", "flat", "base64")
        ],
    )


async def test_shapes_are_asked_for_among_others(client: httpx.AsyncClient) -> None:
    await check_as_alone(
        client,
        [
            {"layer": "relu", "input": [1, -1]},
            {"layer": "max_pool2d", "input_shape": [1, 1, 4, 4], "kernel_size": 2},
            {"layer": "sync_batch_norm", "input_shapes": [[2, 3], [1, 3]], "training": True},
            {"layer": "adaptive_avg_pool3d", "input_shape": [2**30, 2**30, 9, 9, 9],
             "output_size": 2**30},
            {"layer": "max_pool2d", "operation": "shape", "input_shape": [1, 1, 4, 4],
             "kernel_size": 9},
        ],
    )  # fmt: skip


WRONG: dict[str, tuple[Any, int, str | None]] = {
    "no object": (3, 422, None),
    "a list": ([1], 422, None),
    "no layer": ({"input": [1]}, 422, "#/layer"),
    "a layer of no text": ({"layer": 3, "input": [1]}, 422, "#/layer"),
    "an unknown layer": ({"layer": "relo", "input": [1]}, 404, None),
    "an unknown operation": ({"layer": "relu", "operation": "check"}, 422, "#/operation"),
    "no input": ({"layer": "relu"}, 422, "#/input"),
    "an unknown field": ({"layer": "relu", "input": [1], "inptu": 1}, 422, "#/inptu"),
    "ragged rows": ({"layer": "relu", "input": [[1, 2], [3]]}, 422, "#/input/1"),
    "a wrong number": ({"layer": "relu", "input": [1, True]}, 422, "#/input/1"),
    "a shape with data": ({"layer": "relu", "input_shape": [2], "input": [1, 2]}, 422, "#/input"),
    "too costly": ({"layer": "adaptive_avg_pool2d", "input": [[[[1]]]], "output_size": 9999},
                   422, None),
    "an index outside": ({"layer": "max_unpool1d", "input": [[[1]]], "indices": [[[9]]],
                          "kernel_size": 2}, 422, "#/indices/0/0/0"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
async def test_one_bad_request_fails_alone(client: httpx.AsyncClient, wrong: str) -> None:
    request, status, pointer = WRONG[wrong]
    good = {"layer": "relu", "input": [1, -1]}
    sent = {"X-Request-ID": "the-batch"}
    body = {"requests": [good, request, good]}
    response = await client.post("/v1/batch", json=body, headers=sent)
    assert response.status_code == 200
    first, refused, last = response.json()["responses"]
    assert first == last
    assert first["body"]["output"] == [1.0, 0.0]
    assert refused["status"] == refused["body"]["status"] == status
    assert refused["body"]["request_id"] == "the-batch"
    pointers = [error["pointer"] for error in refused["body"].get("errors", [])]
    assert (pointers[0] if pointers else None) == pointer, refused


def test_a_refused_request_leaves_the_parser_to_the_next_body() -> None:
    """While a batch is computed, other bodies are decoded on the same thread."""
    context = Context(Engine("cpu", Settings().limits), LAYERS, refusal)
    batch = next(one for one in SERVICE_OPERATIONS if one.name == "batch").reader(context)
    wrong = (
        b"3",
        b'{"layer": "relo"}',
        b'{"layer": "relu", "input": [[1, 2], [3]]}',
        b'{"a\\u0000": 1}',
    )
    body = b'{"requests": [' + b", ".join(wrong) + b"]}"
    held = json_codec.decode(body, batch.tensors, max_rank=8, max_list=64)
    assert all(isinstance(error, RequestError) for error in held["requests"])  # type: ignore[attr-defined]
    for _ in range(2):
        fields = json_codec.decode(
            b'{"input": [[1, 2]]}', {"input": TensorField()}, max_rank=8, max_list=64
        )
        assert fields["input"].shape == (1, 2)  # type: ignore[attr-defined]


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "no list": (b'{"requests": 3}', 422, "#/requests"),
    "an object": (b'{"requests": {"layer": "relu"}}', 422, "#/requests"),
    "nothing": (b"{}", 422, "#/requests"),
    "more fields": (b'{"requests": [], "layer": "relu"}', 422, "#/layer"),
    "too many": (b'{"requests": [' + b"0," * 256 + b"0]}", 422, "#/requests"),
}


@pytest.mark.parametrize("wrong", REFUSED)
async def test_what_is_no_batch_is_refused_whole(client: httpx.AsyncClient, wrong: str) -> None:
    body, status, pointer = REFUSED[wrong]
    response = await client.post("/v1/batch", content=body, headers=TEXT)
    assert response.status_code == status
    assert response.json()["errors"][0]["pointer"] == pointer


async def test_an_empty_batch_has_no_answers(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/batch", json={"requests": []})
    assert (response.status_code, response.json()) == (200, {"responses": []})


async def test_a_batch_comes_as_json_alone(client: httpx.AsyncClient) -> None:
    binary = {"Content-Type": "application/vnd.safetensors"}
    response = await client.post("/v1/batch", content=b"", headers=binary)
    assert response.status_code == 415
    answer = await client.post(
        "/v1/batch", json={"requests": []}, headers={"Accept": binary["Content-Type"]}
    )
    assert answer.status_code == 406


@pytest.fixture
async def cheap() -> AsyncIterator[httpx.AsyncClient]:
    """A service that allows one millisecond."""
    transport = httpx.ASGITransport(create_app(Settings(max_cost_ms=1)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def test_the_cost_of_a_batch_is_the_sum(cheap: httpx.AsyncClient) -> None:
    request = {"layer": "adaptive_avg_pool2d", "input": [[[[1]]]], "output_size": 150}
    several = {"requests": [request] * 8}
    assert (await cheap.post("/v1/batch", json={"requests": [request]})).status_code == 200
    refused = await cheap.post("/v1/batch", json=several)
    assert refused.json()["type"] == "/errors/cost-limit"
