"""Every kind of error: a problem of the documented form, and nothing of the input in it."""

import difflib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest

from app import errors
from app.api.problems import KINDS, STATUS, CatchAll
from app.layers import LAYERS
from app.main import create_app
from app.settings import Settings
from tests._faults import BODY, CANARY, FAULTS, NUMBER, ORIGIN, app
from tests.api.test_keys import KEY, calling
from tools.openapi import ROOT

pytestmark = pytest.mark.anyio
RELU, POOL = "/v1/layers/relu", "/v1/layers/max_pool2d"
JSON = {"Content-Type": "application/json"}
BINARY = {"Content-Type": "application/vnd.safetensors"}
# Sent with every request, in the places that no answer may repeat.
NOISE = {
    "Origin": ORIGIN,
    "User-Agent": CANARY,
    "Referer": f"https://{CANARY}.example/",
    "Cookie": f"a={CANARY}",
    "X-Request-ID": f"<{CANARY}>",
    "X-Forwarded-For": CANARY,
    "Forwarded": f"for={CANARY}",
    "Host": f"{CANARY}.example",
    f"X-{CANARY}": CANARY,
}
IMAGE = [[[[NUMBER, 2.0], [3.0, 4.0]]]]


def post(path: str, body: object = BODY, **headers: str) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {"method": "POST", "url": path, "content": content, "headers": JSON | headers}


def binary(header: bytes, data: bytes = b"") -> dict[str, Any]:
    body = len(header).to_bytes(8, "little") + header + data
    return {"method": "POST", "url": RELU, "content": body, "headers": BINARY}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "not JSON": ("malformed-body", post(RELU, f'{{"input": [{NUMBER}], {CANARY}'.encode())),
    "not UTF-8": ("malformed-body", post(RELU, b'{"input": "\xff' + CANARY.encode() + b'"}')),
    "no object": ("malformed-body", post(RELU, [CANARY, NUMBER])),
    "not finite": ("malformed-body", post(RELU, f'{{"{CANARY}": NaN}}'.encode())),
    "binary dtype": ("invalid-request", binary(
        f'{{"input":{{"dtype":"{CANARY}","shape":[1],"data_offsets":[0,4]}}}}'.encode(), b"x" * 4)),
    "not safetensors": ("malformed-body", binary(f'{{"{CANARY}'.encode())),
    "short safetensors": ("malformed-body", binary(
        f'{{"input":{{"dtype":"F32","shape":[9],"data_offsets":[0,36]}},"__metadata__":'
        f'{{"request":"{CANARY}"}}}}'.encode(), b"\0" * 4)),
    "no key": ("unauthorized", post(RELU, Authorization=f"Bearer {CANARY}")),
    "no layer": ("unknown-layer", post(f"/v1/layers/{CANARY}")),
    "no card": ("unknown-layer", {"method": "GET", "url": f"/v1/layers/{CANARY}"}),
    "no path": ("unknown-path", {"method": "GET", "url": f"/{CANARY}/%1b%5b31m?a={CANARY}"}),
    "no page": ("unknown-path", {"method": "GET", "url": f"/errors/{CANARY}"}),
    "no file": ("unknown-path", {"method": "GET", "url": f"/docs/assets/{CANARY}"}),
    "no such method": ("method-not-allowed", {"method": CANARY.upper(), "url": f"{RELU}?{CANARY}"}),
    "another method": ("method-not-allowed", {"method": "PUT", "url": "/livez"}),
    "accept": ("not-acceptable", post(RELU, Accept=f"image/{CANARY}")),
    "media": ("unsupported-media-type", post(RELU, **{"Content-Type": f"text/{CANARY}"})),
    "no media": ("unsupported-media-type", post(RELU, **{"Content-Type": CANARY})),
    "encoding": ("unsupported-media-type", post(RELU, **{"Content-Encoding": CANARY})),
    "large": ("body-too-large", post(RELU, CANARY.encode() * 1000)),
    "unknown field": ("invalid-request", post(RELU, {"input": [NUMBER], "other": CANARY})),
    "text as tensor": ("invalid-request", post(RELU, {"input": CANARY})),
    "text in tensor": ("invalid-request", post(RELU, {"input": [NUMBER, CANARY]})),
    "base64": ("invalid-request", post(RELU, {"input": {"shape": [1], "dtype": "float32",
                                                        "base64": CANARY}})),
    "wrong length": ("invalid-request", post(RELU, {"input": {"shape": [7], "data": [NUMBER]}})),
    "text as option": ("invalid-request", post(POOL, {"input": IMAGE, "kernel_size": CANARY})),
    "no variance": ("invalid-request", post("/v1/layers/batch_norm1d", {
        "input": [[NUMBER], [1]], "training": False, "running_mean": [NUMBER],
        "running_var": [-NUMBER]})),
    "index": ("invalid-request", post("/v1/layers/max_unpool1d", {
        "input": [[[NUMBER]]], "indices": [[[int(NUMBER)]]], "kernel_size": 2})),
    "empty window": ("empty-window", post(POOL, {
        "input": [[[[NUMBER, 2]]]], "kernel_size": [1, 2], "dilation": [1, 3], "stride": 1,
        "padding": [[0, 0], [2, 2]]})),
    "output": ("output-too-large", post("/v1/layers/adaptive_avg_pool2d", {
        "input": IMAGE, "output_size": 4000})),
    "cost": ("cost-limit", post("/v1/layers/adaptive_avg_pool2d", {
        "input": IMAGE, "output_size": 250, "grad_output": "ones"})),
    "rate": ("rate-limited", post(RELU)),
    "bug": ("internal", post("/v1/layers/bug")),
    "memory": ("out-of-memory", post("/v1/layers/out_of_memory")),
    "device": ("device-lost", post("/v1/layers/device_lost")),
    # These need load, time or a signal: the layer raises them here, and their own tests cause them.
    "overloaded": ("overloaded", post("/v1/layers/overloaded")),
    "draining": ("draining", post("/v1/layers/draining")),
    "deadline": ("deadline-exceeded", post("/v1/layers/deadline")),
    "body timeout": ("body-timeout", post("/v1/layers/body_timeout")),
    "no length": ("length-required", post("/v1/layers/length_required")),
}  # fmt: skip
BEFORE_THE_APP = {"malformed-http", "headers-too-large", "too-many-connections"}
"""What the server answers by itself, where no app in process can."""
PAIRED = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
CAUSES = (CANARY, CANARY.upper(), str(NUMBER), str(int(NUMBER)))
PLACES = ("Traceback", 'File "', ".py", "site-packages", str(ROOT), "/secret")


def test_every_kind_is_produced_here_or_before_the_app() -> None:
    assert {code for code, _ in CASES.values()} | BEFORE_THE_APP == set(KINDS)
    assert not {code for code, _ in CASES.values()} & BEFORE_THE_APP


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return {
        "no key": app(api_keys=KEY),
        "rate": app(max_requests_per_minute=1),
        "": app(),
    }


@pytest.fixture
async def http(services: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(services[""]) as client:
        yield client


@pytest.fixture(scope="module")
def document(services: dict[str, Any]) -> dict[str, Any]:
    return json.loads((ROOT / "openapi/openapi.json").read_text())  # type: ignore[no-any-return]


def check_silent(response: httpx.Response) -> None:
    """Nothing of the input, and no place in the source."""
    told = response.text + repr(response.headers.multi_items())
    assert not [text for text in CAUSES + PLACES if text in told.replace(ORIGIN, "")], told
    assert len(response.content) <= 8192
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Origin" in response.headers["Vary"]
    for status, header in PAIRED.items():
        if response.status_code == status:
            assert header in response.headers
    if response.status_code not in PAIRED:
        assert not set(PAIRED.values()) & set(response.headers)
    assert response.headers["X-Request-ID"].isalnum()


@pytest.mark.parametrize("name", CASES)
async def test_every_error_is_a_problem(
    services: dict[str, Any], document: dict[str, Any], name: str
) -> None:
    code, request = CASES[name]
    async with calling(services.get(name, services[""])) as client:
        if name == "rate":
            await client.get("/v1/info")
        response = await client.request(**request | {"headers": NOISE | request.get("headers", {})})
    problem = response.json()
    assert problem["type"] == f"/errors/{code}", problem
    assert response.status_code == problem["status"] == STATUS[KINDS[code]]
    assert response.headers["Content-Type"] == "application/problem+json"
    assert problem["title"] == KINDS[code].title
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert problem["detail"]
    jsonschema.validate(problem, {**document, "$ref": "#/components/schemas/Problem"})
    check_silent(response)
    if request["method"] == "POST":
        described = document["paths"][RELU]["post"]["responses"]
        assert str(response.status_code) in described or code == "unknown-layer"
    async with calling(services[""]) as client:
        page = await client.get(problem["type"])
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")


def test_what_a_status_carries_is_described(document: dict[str, Any]) -> None:
    described = document["components"]["responses"]
    for status, header in PAIRED.items():
        if status != 405:
            assert header in described[f"Error{status}"]["headers"]
    statuses = {STATUS[kind] for kind in KINDS.values()} - {404, 405}
    assert {f"{status}" for status in statuses} <= document["paths"][POOL]["post"][
        "responses"
    ].keys()
    scheme = document["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert document["security"] == [{}, {"key": []}]
    assert document["paths"]["/livez"]["get"]["security"] == []


V2 = {
    "not JSON": (400, b"{" + CANARY.encode()),
    "no key": (401, {}),
    "rate": (429, {}),
    "no model": (404, {}),
    "no field": (422, {"inputs": [], "parameters": {"other": CANARY}}),
    "text": (422, {"inputs": [{"name": "input", "shape": [1], "datatype": "FP32",
                               "data": [CANARY]}]}),
    "datatype": (422, {"inputs": [{"name": "input", "shape": [1], "datatype": CANARY,
                                   "data": [NUMBER]}]}),
    "size": (422, {"inputs": [{"name": "input", "shape": [1], "datatype": "FP32",
                               "parameters": {"binary_data_size": CANARY}}]}),
    "bug": (500, {"inputs": [{"name": "input", "shape": [1], "datatype": "FP32",
                              "data": [NUMBER]}]}),
    "overloaded": (503, {"inputs": [{"name": "input", "shape": [1], "datatype": "FP32",
                                     "data": [NUMBER]}]}),
    "deadline": (504, {"inputs": [{"name": "input", "shape": [1], "datatype": "FP32",
                                   "data": [NUMBER]}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", V2)
async def test_errors_of_the_other_protocol(services: dict[str, Any], name: str) -> None:
    status, body = V2[name]
    model = name if name in FAULTS else CANARY if name == "no model" else "relu"
    async with calling(services.get(name, services[""])) as client:
        if name == "rate":
            await client.get("/v2")
        request = post(f"/v2/models/{model}/infer", body)
        response = await client.request(**request | {"headers": NOISE | request["headers"]})
    assert response.status_code in (status, 400 if status == 422 else status), response.text
    assert response.json().keys() == {"error"}
    check_silent(response)


@pytest.mark.parametrize("layer", LAYERS)
async def test_no_option_is_repeated(http: httpx.AsyncClient, layer: str) -> None:
    spec = LAYERS[layer]
    ports = [port.name for port in spec.inputs]
    for field in [*spec.options.model_fields, *ports, spec.gradient, "dtype", "encoding"]:
        for value in (CANARY, [CANARY], {CANARY: CANARY}, [[NUMBER, CANARY]], NUMBER):
            for path, base in (("", dict(spec.example)), ("/shape", {"input_shape": [2, 2, 2]})):
                request = post(f"/v1/layers/{layer}{path}", {**base, field: value})
                response = await http.request(**request | {"headers": NOISE | request["headers"]})
                if response.status_code != 200:
                    assert response.status_code in (400, 422), response.text
                    text = response.text
                    assert CANARY not in text, (field, text)
                    assert str(NUMBER) not in text, (field, text)


async def test_a_bug_is_told_once_and_its_message_is_none_of_the_lines(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await http.request(**post("/v1/layers/bug"))
    assert response.status_code == 500
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    # Its places are printed from there, without the messages.
    assert record.exc_info is not None
    assert record.exc_info[0] is RuntimeError
    assert record.getMessage() == "request failed: RuntimeError"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), errors.DeadlineExceeded("too late")])
async def test_an_answer_that_has_begun_is_not_begun_again(error: Exception) -> None:
    sent: list[str] = []

    async def breaking(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with pytest.raises(type(error)):
        await CatchAll(breaking)({"type": "http"}, None, send)  # type: ignore[arg-type]
    assert sent == ["http.response.start"]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([("Content-Type", "application/json"), ("Content-Type", "application/json")], 200),
        ([("Content-Type", "application/json; charset=utf-8"),
          ("Content-Type", "text/plain")], 415),
        ([("Content-Type", "text/plain"), ("Content-Type", "application/json")], 415),
        ([("Content-Type", "application/json, text/plain")], 415),
        ([("Content-Type", "application/json"), ("Content-Encoding", "gzip"),
          ("Content-Encoding", "identity")], 415),
        ([("Content-Type", "application/json"), ("Content-Encoding", "identity"),
          ("Content-Encoding", "gzip")], 415),
        ([("Content-Type", "application/json"), ("Accept", "image/png"), ("Accept", "*/*")], 200),
        ([("Content-Type", "application/json"), ("Accept", "*/*"), ("Accept", "image/png")], 200),
        ([("Content-Type", "application/json"), ("Accept", "image/png"),
          ("Accept", "image/jpeg")], 406),
    ],
)  # fmt: skip
async def test_repeated_lines_are_one_list(
    http: httpx.AsyncClient, lines: list[tuple[str, str]], status: int
) -> None:
    for path in (RELU, f"{RELU}/shape"):
        body = {"input": [1]} if path == RELU else {"input_shape": [1]}
        # Without the client's own Accept.
        request = httpx.Request("POST", f"http://test{path}", content=json.dumps(body).encode())
        request.headers = httpx.Headers([*request.headers.multi_items(), *lines])
        response = await http.send(request)
        assert response.status_code == status, response.text


async def test_repeated_lines_of_the_other_protocol(http: httpx.AsyncClient) -> None:
    for first, second in (("gzip", "identity"), ("identity", "gzip"), ("gzip", "deflate")):
        lines = [("Content-Encoding", first), ("Content-Encoding", second)]
        response = await http.post("/v2/models/relu/infer", content=b"{}", headers=lines)
        assert response.status_code == 415
    lines = [("Inference-Header-Content-Length", "2"), ("Inference-Header-Content-Length", "1")]
    response = await http.post("/v2/models/relu/infer", content=b"{}", headers=lines)
    assert response.status_code == 400


async def test_of_many_wrong_fields_a_few_are_told(http: httpx.AsyncClient) -> None:
    compared: list[str] = []

    def count(name: str, *others: Any) -> list[str]:
        compared.append(name)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(difflib, "get_close_matches", count)
        response = await http.request(**post(RELU, {f"f{i}": 0 for i in range(250)}))
    assert len(compared) == len(response.json()["errors"]) == 16
    assert "(and 250 more)" in response.json()["detail"]  # with the input that is missing


async def test_a_list_is_no_longer_than_a_tensors_rank(http: httpx.AsyncClient) -> None:
    for length, said in ((32, "must match the last axes"), (33, "at most 32 items")):
        body = {"input": [1], "normalized_shape": [1] * length}
        response = await http.request(**post("/v1/layers/layer_norm", body))
        assert response.status_code == 422
        assert said in response.json()["detail"]


@pytest.mark.parametrize("path", ["/docs", "/docs/assets/docs.js"])
async def test_pages_are_whole_whatever_range_is_asked_for(
    http: httpx.AsyncClient, path: str
) -> None:
    page = (await http.get(path)).content
    for asked in ("bytes=9999999-", "bytes=abc", f"{CANARY}=1-2", "bytes=5-1", "bytes=0-3"):
        response = await http.get(path, headers={"Range": asked})
        assert (response.status_code, response.content) == (200, page)
        assert response.headers.get("Accept-Ranges", "none") == "none"


async def test_files_tell_their_methods(http: httpx.AsyncClient) -> None:
    for path in ("docs.js", CANARY):
        response = await http.request(**post(f"/docs/assets/{path}"))
        assert response.status_code == 405
        assert response.headers["Allow"] == "GET, HEAD"
        assert response.json()["type"] == "/errors/method-not-allowed"


@pytest.mark.anyio
async def test_a_hint_names_no_page_that_is_not_served() -> None:
    for docs in (True, False):
        async with calling(create_app(Settings(device="cpu", docs=docs))) as http:
            for path in ("/nowhere", "/v1/layers/relu"):
                answer = await http.request("PUT", path)
                assert ("openapi.json" in answer.json()["detail"]) == docs
