"""Over HTTP: each case of a set replays bit for bit; sets as JSON and safetensors are the same."""

import json
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from app.layers import LAYERS
from tests._binary import FILE, bits, opened, problem

pytestmark = pytest.mark.anyio
TEXT = {"Content-Type": "application/json"}


async def made(http: httpx.AsyncClient, layer: str, **fields: Any) -> httpx.Response:
    response = await http.post(f"/v1/layers/{layer}/vectors", json=fields)
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("layer", LAYERS)
async def test_each_case_replays_bit_for_bit(client: httpx.AsyncClient, layer: str) -> None:
    whole = (await made(client, layer, count=64)).json()
    assert {name: whole[name] for name in ("layer", "seed", "format")} == {
        "layer": layer, "seed": 0, "format": 1,
    }  # fmt: skip
    for case in whole["cases"]:
        answer = await client.post(f"/v1/layers/{layer}", json=case["request"])
        assert answer.status_code == 200, (case["name"], answer.text)
        assert answer.json() == case["response"], case["name"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8"])
async def test_other_dtypes_replay(client: httpx.AsyncClient, dtype: str) -> None:
    for layer in ("max_pool1d",) if dtype == "int8" else ("max_pool1d", "group_norm"):
        for case in (await made(client, layer, count=40, dtype=dtype)).json()["cases"]:
            answer = await client.post(f"/v1/layers/{layer}", json=case["request"])
            assert answer.json() == case["response"], case["name"]


@pytest.mark.parametrize("layer", ["max_pool2d", "sync_batch_norm", "conv1d"])
async def test_safetensors_replay(client: httpx.AsyncClient, layer: str) -> None:
    asked = {"count": 30, "dtype": "bfloat16"}
    response = await client.post(
        f"/v1/layers/{layer}/vectors", json=asked, headers={"Accept": FILE}
    )
    tensors, whole = opened(response)
    text = (await made(client, layer, **asked)).json()
    for index, case in enumerate(whole["cases"]):
        prefix = f"cases.{index}."
        sent = {
            name.removeprefix(f"{prefix}request."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{prefix}request.")
        }
        body = safetensors.torch.save(sent, {"request": json.dumps(case["request"])})
        answer = await client.post(
            f"/v1/layers/{layer}", content=body, headers={"Content-Type": FILE, "Accept": FILE}
        )
        found, rest = opened(answer)
        for name, tensor in found.items():
            assert bits(tensor) == bits(tensors[f"{prefix}response.{name}"]), (case["name"], name)
        assert rest["options"] == case["response"]["options"]
        assert case["name"] == text["cases"][index]["name"]
        output = text["cases"][index]["response"].get("output")
        if output and output["data"]:
            numbers = torch.tensor([float(n) for n in output["data"]]).bfloat16().float()
            again = tensors[f"{prefix}response.output"].float().flatten()
            assert torch.equal(numbers.nan_to_num(), again.nan_to_num())


async def test_the_answer_is_the_same_twice(client: httpx.AsyncClient) -> None:
    first, again = [(await made(client, "layer_norm", seed=7)).content for _ in range(2)]
    assert first == again


@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1])
async def test_seeds(client: httpx.AsyncClient, seed: int) -> None:
    assert (await made(client, "relu", seed=seed)).json()["seed"] == seed


WRONG: dict[str, tuple[Any, str]] = {
    "no count": ({"count": 0}, "#/count"),
    "a large count": ({"count": 257}, "#/count"),
    "a huge count": ({"count": 10**30}, "#/count"),
    "a fraction": ({"count": 1.5}, "#/count"),
    "a flag": ({"count": True}, "#/count"),
    "text": ({"count": "3"}, "#/count"),
    "null": ({"count": None}, "#/count"),
    "a list": ({"count": [1]}, "#/count"),
    "a negative seed": ({"seed": -1}, "#/seed"),
    "a long seed": ({"seed": 2**53}, "#/seed"),
    "a seed of text": ({"seed": "0"}, "#/seed"),
    "a seed of many": ({"seed": [[1] * 50] * 5}, "#/seed"),
    "a foreign dtype": ({"dtype": "complex64"}, "#/dtype"),
    "an integer dtype": ({"dtype": "int8"}, "#/dtype"),
    "a dtype of numbers": ({"dtype": 32}, "#/dtype"),
    "a convention": ({"convention": "caffe"}, "#/convention"),
    "an option": ({"kernel_size": 2}, "#/kernel_size"),
    "a tensor": ({"input": [[1.0] * 100]}, "#/input"),
    "a misspelled field": ({"sead": 1}, "#/sead"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_hostile_requests(client: httpx.AsyncClient, wrong: str) -> None:
    body, pointer = WRONG[wrong]
    response = await client.post("/v1/layers/conv2d/vectors", json=body)
    errors = problem(response, 422)["errors"]
    assert pointer in [error["pointer"] for error in errors]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[]", 400), (b"3", 400), (b"{", 400), (b"\xff", 400), (b"{" * 66_000, 413)],
)
async def test_hostile_bodies(client: httpx.AsyncClient, body: bytes, status: int) -> None:
    response = await client.post("/v1/layers/relu/vectors", content=body, headers=TEXT)
    problem(response, status)


async def test_an_unknown_layer_and_a_get(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/layers/relo/vectors", json={})).status_code == 404
    assert (await client.get("/v1/layers/relu/vectors")).status_code == 405
