"""The service over HTTP, in process: answers, documents, and every kind of error."""

import html
import json
from typing import Any

import httpx
import pytest

from app import errors
from app.api import problems
from app.layers import LAYERS
from tools.openapi import ROOT, generated

pytestmark = pytest.mark.anyio
POOL = "/v1/layers/max_pool2d"
INPUT = [[[[1, 2], [3, 4]]]]


async def test_every_layer_answers_its_example(client: httpx.AsyncClient) -> None:
    cards = (await client.get("/v1/layers")).json()["layers"]
    assert [card["name"] for card in cards] == list(LAYERS)
    for card in cards:
        assert (await client.get(f"/v1/layers/{card['name']}")).json() == card
        response = await client.post(f"/v1/layers/{card['name']}", json=card["example"])
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["layer"] == card["name"]
        assert "Server-Timing" in response.headers
        again = await client.post(
            f"/v1/layers/{card['name']}", json={**card["example"], **answer["options"]}
        )
        result = LAYERS[card["name"]].result
        assert again.json()[result] == answer[result], "the options used can be sent"


async def test_the_answer_has_the_parts_that_were_asked_for(client: httpx.AsyncClient) -> None:
    body = {"input": INPUT, "kernel_size": 2}
    plain = (await client.post(POOL, json=body)).json()
    assert plain.keys() == {"layer", "dtype", "device", "output", "output_shape", "options"}
    full = (
        await client.post(
            POOL, json={**body, "grad_output": "ones", "return_indices": True, "explain": True}
        )
    ).json()
    assert full.keys() - plain.keys() == {"gradients", "indices", "explanation"}
    assert full["explanation"]["windows"][0]["argmax"] == [1, 1]
    flat = (await client.post(POOL, json={**body, "encoding": "flat"})).json()
    assert flat["output"] == {"shape": [1, 1, 1, 1], "dtype": "float32", "data": [4.0]}


async def test_shape_needs_no_data_whatever_the_size(client: httpx.AsyncClient) -> None:
    body = {"input_shape": [2**31 - 1] * 4, "kernel_size": 2, "ceil_mode": True}
    answer = (await client.post(f"{POOL}/shape", json=body)).json()
    assert answer["output_shape"] == [2**31 - 1, 2**31 - 1, 2**30, 2**30]
    assert answer["output_elements"] == (2**31 - 1) ** 2 * 2**60
    flat = await client.post(f"{POOL}/shape", json={"input_shape": [4, 4], "kernel_size": 2})
    assert check_problem(flat)["errors"][0]["pointer"] == "#/input_shape"
    dropped = {"input_shape": [1, 1, 9, 9], "kernel_size": 4, "padding": 2, "ceil_mode": True}
    axes = (await client.post(f"{POOL}/shape", json=dropped)).json()["axes"]
    assert axes[0]["dropped_window"] is True
    assert axes[0]["output"] == 3


@pytest.mark.parametrize(
    ("layer", "body", "expected"),
    [
        ("conv2d", {"input_shape": [3], "out_channels": 2, "kernel_size": 3}, "#/input_shape"),
        ("conv2d", {"input_shape": [], "out_channels": 2, "kernel_size": 3}, "#/input_shape"),
        ("conv2d", {"input_shape": [1, 3, 2, 2], "out_channels": 2, "kernel_size": 3},
         "#/input_shape"),
        ("conv2d", {"input_shape": [1, 3, 4, 4], "out_channels": 2, "kernel_size": 3, "groups": 2},
         "#/groups"),
        ("conv2d", {"input_shape": [1, 4, 6, 3], "out_channels": 2, "kernel_size": [3, 1],
                    "layout": "channels_last"}, [1, 2, 6, 2]),
        ("conv1d", {"input_shape": [4, 6], "out_channels": 2, "kernel_size": 3,
                    "batched": False}, [2, 4]),
        ("max_unpool2d", {"input_shape": [1, 2, 3, 4], "kernel_size": 2,
                          "layout": "channels_last"}, [1, 4, 6, 4]),
        ("max_unpool1d", {"input_shape": [2], "kernel_size": 2}, "#/input_shape"),
        ("batch_norm2d", {"input_shape": [7], "training": True}, "#/input_shape"),
        ("sync_batch_norm", {"input_shapes": [[2, 3], [2, 4]], "training": True},
         "#/input_shapes/1"),
        ("group_norm", {"input_shape": [2, 6, 4], "num_groups": 4}, "#/num_groups"),
        ("layer_norm", {"input_shape": [2, 6], "normalized_shape": 5}, "#/normalized_shape"),
        ("rms_norm", {"input_shape": [2, 6], "axis": 2}, "#/axis"),
        ("relu", {"input_shape": []}, []),
    ],
)  # fmt: skip
async def test_shapes_of_every_kind(
    client: httpx.AsyncClient, layer: str, body: dict[str, Any], expected: object
) -> None:
    response = await client.post(f"/v1/layers/{layer}/shape", json=body)
    if isinstance(expected, str):
        assert response.status_code == 422, response.text
        assert check_problem(response)["errors"][0]["pointer"] == expected
    else:
        assert response.json()["output_shape"] == expected


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"kernel_size": 2}, "#/input", "missing"),
        ({"input": INPUT}, "#/kernel_size", "missing"),
        ({"input": INPUT, "kernel_size": 2, "kernel_sise": 2}, "#/kernel_sise", "unknown-field"),
        ({"input": INPUT, "kernel_size": 2.0}, "#/kernel_size", "int-type"),
        ({"input": INPUT, "kernel_size": True}, "#/kernel_size", "int-type"),
        ({"input": INPUT, "kernel_size": [2, 0]}, "#/kernel_size/1", "greater-than-equal"),
        ({"input": INPUT, "kernel_size": [0]}, "#/kernel_size/0", "greater-than-equal"),
        ({"input": INPUT, "kernel_size": []}, "#/kernel_size", "too-short"),
        ({"input": INPUT, "kernel_size": [2, 2, 2]}, "#/kernel_size", "wrong-length"),
        ({"input": INPUT, "kernel_size": 3}, "#/kernel_size", "window-too-large"),
        ({"input": INPUT, "kernel_size": 5000}, "#/kernel_size", "out-of-range"),
        ({"input": INPUT, "kernel_size": 2**63}, "#/kernel_size", "out-of-range"),
        ({"input": INPUT, "kernel_size": 2, "padding": 2}, "#/padding", "out-of-range"),
        ({"input": INPUT, "kernel_size": 2, "padding": "sane"}, "#/padding", "literal-error"),
        ({"input": INPUT, "kernel_size": 2, "padding": [[1, 2, 3]]}, "#/padding/0", "too-long"),
        ({"input": INPUT[0], "kernel_size": 2}, "#/input", "wrong-rank"),
        ({"input": "x", "kernel_size": 2}, "#/input", "tensor-type"),
        ({"input": [[[[]]]], "kernel_size": 2}, "#/input", "empty-axis"),
        ({"input": {"shape": [0, *[2**31 - 1] * 3], "data": []}, "kernel_size": 2},
         "#/input", "out-of-range"),
        ({"input": INPUT, "kernel_size": 2, "grad_output": [1]}, "#/grad_output", "shape-mismatch"),
        ({"input": INPUT, "kernel_size": 2, "grad_output": "one"}, "#/grad_output", "tensor-type"),
        ({"input": INPUT, "kernel_size": 2, "dtype": "float8"}, "#/dtype", "literal-error"),
        ({"input": INPUT, "kernel_size": 2, "dtype": "int8", "grad_output": "ones"},
         "#/grad_output", "no-gradient"),
        ({"input": INPUT, "kernel_size": 2, "dilation": 2, "padding": [[2, 0], [0, 0]]},
         "#/kernel_size", "window-too-large"),
        ({"input": INPUT, "kernel_size": 2, "storage_order": "column"},
         "#/storage_order", "conflict"),
    ],
)  # fmt: skip
async def test_wrong_fields_are_pointed_at(
    client: httpx.AsyncClient, body: dict[str, Any], pointer: str, code: str
) -> None:
    response = await client.post(POOL, json=body)
    assert response.status_code == 422, response.text
    problem = check_problem(response)
    found = [(error["pointer"], error["code"]) for error in problem["errors"]]
    assert (pointer, code) in found
    assert len(found) == 1


async def test_the_window_of_padding_alone_is_refused(client: httpx.AsyncClient) -> None:
    body = {"input": [[[[1, 2]]]], "kernel_size": [1, 2], "dilation": [1, 3], "stride": 1,
            "padding": [[0, 0], [2, 2]]}  # fmt: skip
    response = await client.post(POOL, json=body)
    assert check_problem(response)["type"] == "/errors/empty-window"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"input": [[1, 2]], "training": True}, "#/input"),
        ({"input": [[1, 2], [3, 4]], "training": False}, "#/running_mean"),
        ({"input": [[1, 2], [3, 4]]}, "#/training"),
        ({"input": [[1, 2], [3, 4]], "training": True, "weight": [1]}, "#/weight"),
        ({"input": [[1, 2], [3, 4]], "training": True, "running_mean": [1, 1]}, "#/running_var"),
        ({"input": [[1, 2], [3, 4]], "training": True, "momentum": 2}, "#/momentum"),
        ({"input": [[1, 2], [3, 4]], "training": True, "eps": 0}, "#/eps"),
        ({"input": [[1, 2], [3, 4]], "training": False, "running_mean": [0, 0],
          "running_var": [1, -1]}, "#/running_var"),
    ],
)  # fmt: skip
async def test_wrong_batch_norms(
    client: httpx.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    response = await client.post("/v1/layers/batch_norm1d", json=body)
    assert response.status_code == 422, response.text
    assert check_problem(response)["errors"][0]["pointer"] == pointer


async def test_statuses(client: httpx.AsyncClient) -> None:
    js = {"Content-Type": "application/json"}
    cases: list[tuple[int, httpx.Response]] = [
        (400, await client.post(POOL, content=b"{", headers=js)),
        (404, await client.get("/v1/layers/max_pool9d")),
        (404, await client.post("/v1/layers/max_pool9d", json={})),
        (404, await client.get("/nowhere")),
        (404, await client.get("/errors/nothing")),
        (405, await client.delete(POOL)),
        (406, await client.post(POOL, json={}, headers={"Accept": "image/png"})),
        (413, await client.post(POOL, content=b" " * (16 * 1024 * 1024 + 1), headers=js)),
        (413, await client.post(POOL, content=chunks(17), headers=js)),
        (415, await client.post(POOL, content=b"{}", headers={"Content-Type": "text/plain"})),
        (415, await client.post(POOL, content=b"{}", headers={**js, "Content-Encoding": "gzip"})),
        (422, await client.post(POOL, json={f"field{i}": 1 for i in range(99)})),
    ]
    for status, response in cases:
        assert response.status_code == status, response.text
        check_problem(response)


@pytest.mark.parametrize("encoding", ["nested", "flat", "base64"])
async def test_what_was_counted_is_a_number(client: httpx.AsyncClient, encoding: str) -> None:
    body = {"input": [[1, 2], [3, 5]], "training": True, "encoding": encoding}
    stats = (await client.post("/v1/layers/batch_norm1d", json=body)).json()["running_stats"]
    assert stats["num_batches_tracked"] == 1
    again = await client.post("/v1/layers/batch_norm1d", json={**body, "num_batches_tracked": 1})
    assert again.json()["running_stats"]["num_batches_tracked"] == 2


async def test_allow_names_every_method_of_the_path(client: httpx.AsyncClient) -> None:
    for path, methods in ((POOL, "GET, POST"), (f"{POOL}/shape", "POST"), ("/v1/layers", "GET")):
        for method in ("DELETE", "PUT", "OPTIONS"):
            response = await client.request(method, path)
            assert (response.status_code, response.headers["Allow"]) == (405, methods)


async def chunks(mebibytes: int) -> Any:
    for _ in range(mebibytes):
        yield b" " * (1 << 20)


def check_problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["Content-Type"] == "application/problem+json"
    assert len(response.content) <= 8192
    assert problem_type_has_a_page(response.json()["type"])
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert len(problem.get("errors", [])) <= 16
    return problem


def problem_type_has_a_page(path: str) -> bool:
    return path.removeprefix("/errors/") in problems.KINDS


async def test_long_foreign_names_stay_below_8_kib(client: httpx.AsyncClient) -> None:
    body = {f"{i}" + "\U0001f600" * 100: 1 for i in range(99)}
    check_problem(await client.post(POOL, json=body))


async def test_each_kind_of_error_has_its_page(client: httpx.AsyncClient) -> None:
    kinds = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.LaminaError)
    }
    assert kinds == set(problems.KINDS)
    for code in kinds:
        page = await client.get(f"/errors/{code}")
        assert page.status_code == 200
        assert html.escape(problems.KINDS[code].title) in page.text


async def test_an_unexpected_fault_is_a_problem_inside_cors(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.compute import Engine

    def fail(*arguments: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(Engine, "run", fail)
    origin = {"Origin": "https://a.example"}
    response = await client.post(POOL, json={"input": INPUT, "kernel_size": 2}, headers=origin)
    assert response.status_code == 500
    check_problem(response)
    assert "secret" not in response.text
    assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"


async def test_cors_headers_stand_on_errors_too(client: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://a.example"}
    for response in (
        await client.get("/livez", headers=origin),
        await client.get("/nowhere", headers=origin),
        await client.delete(POOL, headers=origin),
        await client.post(POOL, json={}, headers=origin),
        await client.post(POOL, content=b"x", headers=origin),
    ):
        assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "Origin" in response.headers["Vary"]
    stranger = await client.get("/livez", headers={"Origin": "https://b.example"})
    assert "Access-Control-Allow-Origin" not in stranger.headers


async def test_request_ids_are_echoed_when_they_are_harmless(client: httpx.AsyncClient) -> None:
    kept = await client.get("/livez", headers={"X-Request-ID": "abc-1"})
    assert kept.headers["X-Request-ID"] == "abc-1"
    minted = await client.get("/livez", headers={"X-Request-ID": "a b\t<script>"})
    assert "script" not in minted.headers["X-Request-ID"]


async def test_documents(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = [op for path in document["paths"].values() for op in path.values()]
    assert len({op["operationId"] for op in operations}) == len(operations)
    for name in LAYERS:
        body = document["paths"][f"/v1/layers/{name}"]["post"]["requestBody"]
        reference = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert reference in document["components"]["schemas"]
        assert body["content"]["application/json"]["example"]
    text = json.dumps(document)
    for part in set(text.split('"$ref": "')[1:]):
        _, _, kind, name = part.partition('"')[0].split("/")
        assert name in document["components"][kind]
    page = await client.get("/docs")
    assert "http" not in page.text.replace("<!doctype html>", "")
    for asset in ("docs.js", "swagger-ui/swagger-ui-bundle.js", "swagger-ui/swagger-ui.css"):
        assert (await client.get(f"/docs/assets/{asset}")).status_code == 200


async def test_info_and_health(client: httpx.AsyncClient) -> None:
    info = (await client.get("/v1/info")).json()
    assert info["limits"]["max_output_bytes"] == 256 << 20
    assert info["threads"] >= 1
    for path in ("/livez", "/readyz"):
        assert (await client.get(path)).status_code == 200


async def test_metrics_count_by_layer_encoding_and_status(client: httpx.AsyncClient) -> None:
    await client.post(POOL, json={"input": INPUT, "kernel_size": 2})
    await client.post(POOL, json={"input": INPUT})
    text = (await client.get("/metrics")).text
    for status in ("2xx", "4xx"):
        labels = f'encoding="json",layer="max_pool2d",status="{status}"'
        assert f"lamina_request_seconds_count{{{labels}}} 1.0" in text
    for phase in ("queue", "decode", "compute", "encode"):
        assert f'encoding="json",layer="max_pool2d",phase="{phase}"}} 1.0' in text


def test_generated_files_are_fresh() -> None:
    for path, text in generated(ROOT).items():
        assert path.read_text() == text, f"{path.name} is stale: run `make openapi`"
