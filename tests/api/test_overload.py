"""What clients see of admission: deadlines, bodies that do not come, readiness, gauges."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app import main
from app.api.pipeline import send_answer
from app.main import create_app
from app.settings import Settings
from tests._serving import serving, wait_for
from tests._soak import rounds

pytestmark = pytest.mark.anyio
BODY = {"input": [[[1, 2, 3, 4]]], "kernel_size": 2, "grad_output": "ones"}
SLOW = {
    "input": {"shape": [1, 1, 1 << 17], "data": [1] * (1 << 17)},
    "kernel_size": 4001,
    "padding": 2000,
    "stride": 1,
}
"""About half a second of computing."""
PATH = "/v1/layers/max_pool1d"
HEADERS = {"content-type": "application/json"}
IDLE = {"in_flight_requests": 0, "queued_requests": 0, "reserved_bytes": 0}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(cors_origins=("https://a.example",)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def gauges(http: httpx.AsyncClient) -> dict[str, float]:
    text = (await http.get("/metrics")).text
    return {name: float(re.findall(rf"^lamina_{name} (.*)$", text, re.M)[0]) for name in IDLE}


async def idle(http: httpx.AsyncClient) -> None:
    """Wait until nothing is held."""
    async with asyncio.timeout(120):
        while await gauges(http) != IDLE:
            await asyncio.sleep(0.02)


async def test_the_deadline_is_the_callers_within_the_services(http: httpx.AsyncClient) -> None:
    for sent, status in (("60000", 200), ("99999999999", 200), ("0", 504)):
        answer = await http.post(PATH, json=BODY, headers={"X-Request-Timeout-Ms": sent})
        assert answer.status_code == status, answer.text
    assert answer.json()["type"] == "/errors/deadline-exceeded"
    for wrong in ("1.5", "-1", "x", "", "9" * 30):
        answer = await http.post(PATH, json=BODY, headers={"X-Request-Timeout-Ms": wrong})
        assert (answer.status_code, answer.json()["title"]) == (422, answer.json()["title"])
        assert "milliseconds" in answer.json()["detail"]
    infer = {"inputs": [{"name": "input", "shape": [2], "datatype": "FP32", "data": [-1, 2]}]}
    answer = await http.post(
        "/v2/models/relu/infer", json=infer, headers={"X-Request-Timeout-Ms": "0"}
    )
    assert (answer.status_code, list(answer.json())) == (504, ["error"])
    shape = {"input_shape": [1, 1, 4], "kernel_size": 2}
    answer = await http.post(f"{PATH}/shape", json=shape, headers={"X-Request-Timeout-Ms": "0"})
    assert answer.status_code == 504, answer.text
    assert await gauges(http) == IDLE


async def test_the_deadline_counts_from_the_arrival(http: httpx.AsyncClient) -> None:
    """A computation that takes longer than the client waits is answered before it is done."""
    answer = await http.post(PATH, json=SLOW, headers={"X-Request-Timeout-Ms": "60"})
    assert answer.status_code == 504
    await idle(http)
    shed = re.findall(r'lamina_shed_requests_total\{reason="(.*)"\} 1.0', await metrics(http))
    assert shed == ["deadline-exceeded"]


async def test_gauges_are_set_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    def loads(*_: object) -> dict[str, int]:
        told.append("start")
        return IDLE

    monkeypatch.setattr(main, "_loads", loads)
    app, sent = main.create_app(Settings()), []
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "lifespan.startup"})

    async def send(message: Any) -> None:
        sent.append((message["type"], *told))
        incoming.put_nowait({"type": "lifespan.shutdown"})

    await app({"type": "lifespan", "state": {}}, incoming.get, send)
    assert sent[0] == ("lifespan.startup.complete", "start")


async def test_gauges_are_set_while_a_request_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker, which is asked for them, reads what this one has set."""
    told: list[object] = []

    def loads(*_: object) -> dict[str, int]:
        told.append(len(told))
        return {**IDLE, "in_flight_requests": 1 - len(told) // 3}

    async def paused() -> AsyncIterator[bytes]:
        yield b"{"
        while len(told) < 3:
            await asyncio.sleep(0.01)

    monkeypatch.setattr(main, "_loads", loads)
    transport = httpx.ASGITransport(main.create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.post(PATH, content=paused(), headers=HEADERS)).status_code == 400


async def metrics(http: httpx.AsyncClient) -> str:
    return (await http.get("/metrics")).text


async def test_a_body_that_pauses_or_is_not_there(http: httpx.AsyncClient) -> None:
    async def paused() -> AsyncIterator[bytes]:
        yield b'{"input"'
        await asyncio.sleep(600)

    transport = httpx.ASGITransport(create_app(Settings(body_idle_timeout_ms=50)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as hasty:
        answer = await hasty.post(PATH, content=paused(), headers=HEADERS)
    assert (answer.status_code, answer.json()["type"]) == (408, "/errors/body-timeout")
    assert answer.headers["connection"] == "close"
    request = http.build_request("POST", PATH, headers=HEADERS)
    del request.headers["content-length"]
    answer = await http.send(request)
    assert (answer.status_code, answer.json()["type"]) == (411, "/errors/length-required")
    assert await gauges(http) == IDLE


@pytest.mark.parametrize("path", [PATH, f"{PATH}/shape"])
async def test_a_body_that_drips_is_given_up_when_the_time_is_over(path: str) -> None:
    async def dripping() -> AsyncIterator[bytes]:
        for byte in json.dumps(BODY).encode():
            yield bytes([byte])
            await asyncio.sleep(0.02)

    app = create_app(Settings())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as http:
        headers = {**HEADERS, "X-Request-Timeout-Ms": "100"}
        answer = await http.post(path, content=dripping(), headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (408, "/errors/body-timeout")
        assert "before the request's deadline" in answer.json()["detail"]


async def test_a_request_without_data_is_small(http: httpx.AsyncClient) -> None:
    body = json.dumps({"input_shape": [1, 1, 4], "kernel_size": 2}).encode()
    for length, status in ((64 << 10, 200), ((64 << 10) + 1, 413)):
        answer = await http.post(f"{PATH}/shape", content=body.ljust(length), headers=HEADERS)
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("binary", [True, False])
async def test_memory_for_text_is_for_text_alone(binary: bool) -> None:
    """A result of 2 MiB fits the memory for results, its text of up to 8 MiB does not."""
    app = create_app(Settings(memory_budget_bytes=16 << 20))
    parameters = {"binary_data_output": binary, "output_size": [1024, 512]}
    tensor = {"name": "input", "shape": [1, 1, 1, 1], "datatype": "FP32", "data": [1]}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as http:
        body = {"inputs": [tensor], "parameters": parameters}
        answer = await http.post("/v2/models/adaptive_avg_pool2d/infer", json=body)
        assert answer.status_code == (200 if binary else 422), answer.text[:300]


async def test_a_client_that_leaves_frees_everything() -> None:
    app = create_app(Settings())
    sent: list[Any] = []
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": json.dumps(SLOW).encode()})
    incoming.put_nowait({"type": "http.disconnect"})
    length = str(len(json.dumps(SLOW))).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "headers": [(b"content-type", b"application/json"), (b"content-length", length)],
    }

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, incoming.get, send)
    assert sent == []
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as http:
        await idle(http)
        assert 'lamina_shed_requests_total{reason="client-left"} 1.0' in await metrics(http)


async def test_a_lost_device_ends_readiness(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await http.get("/readyz")).status_code == 200

    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("device-side assert triggered")

    monkeypatch.setattr(torch.nn.functional, "relu", fail)
    monkeypatch.setattr(torch, "relu", fail)
    monkeypatch.setattr(torch, "clamp_min", fail, raising=False)
    answer = await http.post("/v1/layers/relu", json={"input": [1, -1]})
    assert (answer.status_code, answer.json()["type"]) == (503, "/errors/device-lost")
    assert "assert" not in answer.text
    monkeypatch.undo()
    for path in ("/readyz", "/v2/health/ready", "/v2/models/relu/ready"):
        answer = await http.get(path)
        assert answer.status_code == 503, path
        assert "Retry-After" in answer.headers
    assert (await http.get("/livez")).status_code == 200


@pytest.mark.parametrize("framing", ["Content-Length: 419000", "Transfer-Encoding: chunked"])
def test_who_only_begins_a_body_holds_nothing(framing: str) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    first = b"{" if "Length" in framing else b"1\r\n{\r\n"
    patient = dict.fromkeys(("BODY_IDLE_TIMEOUT_MS", "REQUEST_TIMEOUT_MS"), "600000")
    settings: dict[str, Any] = {"MEMORY_BUDGET_BYTES": str(256 << 20), **patient}
    settings |= {"DRAIN_GRACE_MS": "2000"}
    with serving(**settings) as port, contextlib.ExitStack() as stack:
        for _ in range(80):
            connection = socket.create_connection(("127.0.0.1", port))
            stack.enter_context(connection).sendall(head.encode() + first)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
            wait_for(lambda: "lamina_in_flight_requests 80.0" in http.get("/metrics").text)
            text = http.get("/metrics").text
            assert "lamina_reserved_bytes 0.0" in text
            for body in (BODY, BODY | {"input": [[[1] * 100_000]]}):
                assert http.post(PATH, json=body).status_code == 200


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("length", [8191, 8193, 100_000, 1_000_000])
async def test_bodies_arrive_whole(http: httpx.AsyncClient, chunked: bool, length: int) -> None:
    body = json.dumps(BODY).encode().ljust(length)

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, length, 5000):
            yield body[begin : begin + 5000]

    headers = HEADERS if chunked else {**HEADERS, "content-length": str(length)}
    answer = await http.post(PATH, content=pieces(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json() == (await http.post(PATH, json=BODY)).json()
    assert await gauges(http) == IDLE


def test_a_full_service_refuses_early_and_clearly(tmp_path: Path) -> None:
    """One turn's worth of slow work after another, far more than the queue holds."""
    body = json.dumps(SLOW).encode()

    async def storm(port: int) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=200
        ) as http:
            posts = [http.post(PATH, content=body, headers=HEADERS) for _ in range(30)]
            answered = await asyncio.gather(*posts)
            assert (await http.post(PATH, json=BODY)).status_code == 200
            await idle(http)
            return answered

    with serving(log=tmp_path / "log", MAX_QUEUED_REQUESTS="2") as port:
        answers = asyncio.run(storm(port))
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(503) >= rounds(1, 20)
    for refused in answers:
        if refused.status_code == 503:
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["type"] == "/errors/overloaded"
            assert 1 <= int(refused.headers["Retry-After"]) <= 8
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20, (5 << 20) - 7])
async def test_answers_leave_in_pieces_of_a_mebibyte(length: int) -> None:
    whole = bytes(range(251)) * (length // 251 + 1)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await send_answer(send, [b"head", memoryview(whole)[:length], b"tail"], ())
    bodies = [message["body"] for message in sent[1:]]
    assert b"".join(bodies) == b"head" + whole[:length] + b"tail"
    assert max(map(len, bodies)) <= 1 << 20
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (
        len(bodies) - 1
    ) + [False]
    headers = dict(sent[0]["headers"])
    assert int(headers[b"content-length"]) == length + 8
