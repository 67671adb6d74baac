"""What a server writes: a line of JSON an event, whatever comes, and nothing of the input."""

import json
import os
import re
import secrets
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests._serving import serving

OPERATING = Path(__file__).parents[2] / "docs/operating.md"
CANARY = "canary-5f1c2e"
RELU = json.dumps({"input": [1.5, -2.5]}).encode()
PATHS = [
    b"/%0d%0aX-Injected:1",
    b"/%1b[31mred",
    b"/\xff\xfe",
    b"/%c2%9b31m",
    b"/%e2%80%a8",
    b"/%00",
    b"//evil",
    b"/" + b"a" * 8000,
    b"/" + CANARY.encode(),
    b"/v1/info?key=" + CANARY.encode() + b"%0a",
    b"/v1/layers/%0a{}",
    b"/v1/layers/relu%0a",
    b"/v1/layers/relu/shape/%1b",
    b"/v2/models/%1b[2J/infer",
    b"/v2/models/relu/versions/%0a",
    b"/errors/%1b[31m",
    b"http://evil/%0a",
    b"*",
]
HEADERS = [
    b"X-Request-ID: \x1b[31m",
    b"X-Request-ID: \xff\xfe",
    b"X-Request-ID: a%0d%0ab",
    b"X-Request-ID: a\r\n b",
    b"X-Request-ID: " + b"a" * 65,
    b"X-Request-ID: {}\\n",
    b"X-\x1b: a",
    b"User-Agent: \x1b]0;title\x07",
    b"User-Agent: \xff\xfe",
    b"Content-Type: " + CANARY.encode(),
    b"Content-Length: -1",
    b"Authorization: Bearer " + CANARY.encode(),
    b"Cookie: a=" + CANARY.encode(),
    b"Referer: " + CANARY.encode(),
    b"traceparent: 00-" + CANARY.encode(),
    b"X-Forwarded-For: \x1b" + CANARY.encode(),
    b"X-Forwarded-For: " + CANARY.encode(),
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade\r\nUpgrade: " + CANARY.encode(),
    b"Expect: 100-continue",
]
HOSTILE = [
    *(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n" for path in PATHS),
    *(b"POST /v1/layers/relu HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n" for header in HEADERS),
    b"PROPFIND / HTTP/1.1\r\nHost: a\r\n",
    b"\x1b[31m / HTTP/1.1\r\nHost: a\r\n",
    b"GET / HTTP/1.1\nHost: a\n",
]


class Server:
    """A server whose log is a file."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    def send(self, request: bytes) -> bytes:
        """What comes back until the connection closes."""
        with socket.create_connection(("127.0.0.1", self.port), 120) as client:
            client.sendall(request)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def mark(self) -> int:
        """Waits until all that has happened is written; where the log ends."""
        name = secrets.token_hex(8)
        url = f"http://127.0.0.1:{self.port}/v1/info"
        urllib.request.urlopen(urllib.request.Request(url, headers={"X-Request-ID": name}))
        return self.end_of(f'"{name}"'.encode())

    def end_of(self, words: bytes) -> int:
        """Waits for a line with these words; where it ends."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            text = self._log.read_bytes()
            if (found := text.find(words)) >= 0 and (end := text.find(b"\n", found)) >= 0:
                return end + 1
            time.sleep(0.05)
        raise AssertionError(f"no line with {words!r} in {text[-2000:]!r}")

    def lines(self, since: int) -> list[bytes]:
        """The lines from there, but for the mark's own."""
        end = self.mark()
        return self._log.read_bytes()[since:end].splitlines()[:-1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "stderr"
    with log.open("wb") as file, serving(log=file) as port:
        yield Server(port, log)


def post(server: Server, body: bytes = RELU, **headers: str) -> Any:
    url = f"http://127.0.0.1:{server.port}/v1/layers/relu"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} | headers)
    return urllib.request.urlopen(request)


def test_a_request_is_one_line(server: Server) -> None:
    since = server.mark()
    with post(server, X_Request_ID="mine") as answer:
        body, timing = answer.read(), answer.headers["Server-Timing"]
    [line] = map(json.loads, server.lines(since))
    assert list(line)[:3] == ["time", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", line.pop("time"))
    took = {f"{name}_ms": float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", timing)}
    assert took.keys() == {"queue_ms", "decode_ms", "compute_ms", "encode_ms"}
    assert line.pop("duration_ms") > sum(took.values()) / 2
    assert line == took | {
        "level": "info",
        "event": "request",
        "request_id": "mine",
        "method": "POST",
        "path": "/v1/layers/{layer}",
        "layer": "relu",
        "status": 200,
        "request_bytes": len(RELU),
        "response_bytes": len(body),
        "client": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("path", "template", "layer"),
    [
        ("/v1/layers", "/v1/layers", None),
        ("/v1/layers/relu", "/v1/layers/{layer}", "relu"),
        ("/v1/layers/nothing", "/v1/layers/{layer}", None),
        ("/v2/models/relu/versions/1/ready", "/v2/models/{model}/versions/{version}/ready", "relu"),
        ("/v2/models/nothing", "/v2/models/{model}", None),
        ("/docs/assets/docs.css", "/docs/assets/{path}", None),
        ("/nothing", "unmatched", None),
    ],
)
def test_paths_are_told_by_their_templates(
    server: Server, path: str, template: str, layer: str | None
) -> None:
    since = server.mark()
    server.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    [line] = map(json.loads, server.lines(since))
    assert (line["path"], line.get("layer")) == (template, layer)
    assert line["level"] == "info"


@pytest.mark.parametrize("request_head", HOSTILE)
def test_whatever_comes_is_one_line(server: Server, request_head: bytes) -> None:
    since = server.mark()
    server.send(request_head + b"Connection: close\r\n\r\n")
    [line] = server.lines(since)
    assert all(0x20 <= byte < 0x7F for byte in line)
    assert CANARY.encode() not in line
    told = json.loads(line)
    if told["event"] == "request":
        assert 200 <= told["status"] < 500
        assert re.fullmatch(r"[\w-]{1,64}", told["request_id"])
        assert told["method"] in ("GET", "POST", "other")
    else:
        assert told["logger"] in ("lamina", "uvicorn.error")


def test_the_fields_are_documented(server: Server) -> None:
    since = server.mark()
    post(server).close()
    [line] = map(json.loads, server.lines(since))
    table = OPERATING.read_text().partition("| field |")[2].partition("\n\n")[0]
    names = "".join(row.split("|")[1] for row in table.splitlines()[2:])
    sometimes = {"client_id", "trace_id"}
    assert set(re.findall(r"`(\w+)`", names)) == line.keys() - {"time", "event"} | sometimes


def test_nothing_of_a_body_is_written(server: Server) -> None:
    since = server.mark()
    bodies = [
        {"input": [31337.25]},
        {"input": [31337.25, CANARY]},
        {"input": [1], CANARY: 1},
        {"input": [1], "convention": CANARY},
        [CANARY],
        CANARY,
    ]
    for body in bodies:
        text = json.dumps(body).encode()
        head = b"POST /v1/layers/relu HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
        server.send(head + text)
    lines = server.lines(since)
    assert len(lines) == len(bodies)
    assert all(word not in line for line in lines for word in (CANARY.encode(), b"31337"))


def test_ten_thousand_paths_are_few_words(server: Server) -> None:
    def series() -> set[str]:
        url = f"http://127.0.0.1:{server.port}/metrics"
        text = urllib.request.urlopen(url).read().decode()
        return {line.rpartition(" ")[0] for line in text.splitlines() if line[0] != "#"}

    def some() -> str:
        forms = ("/{}", "/v1/layers/{}", "/v2/models/{}/infer", "/errors/{}", "/v1/{}/{}", "/{}/")
        form = secrets.choice(forms)
        return form.format(secrets.token_urlsafe(12), secrets.token_urlsafe(3))

    post(server).close()
    before, since = series(), server.mark()
    with socket.create_connection(("127.0.0.1", server.port), 120) as client:
        for _ in range(1000):
            heads = [f"GET {some()} HTTP/1.1\r\nHost: a\r\n\r\n" for _ in range(10)]
            client.sendall("".join(heads).encode())
            answers = b""
            while answers.count(b"HTTP/1.1 ") < 10:
                piece = client.recv(1 << 20)
                assert piece, "the connection ended"
                answers += piece
    lines = [json.loads(line) for line in server.lines(since)]
    assert series() == before
    assert len(lines) == 10_000
    assert {line["path"] for line in lines} == {
        "unmatched",
        "/v1/layers/{layer}",
        "/v2/models/{model}/infer",
        "/errors/{code}",
    }
    assert not any("layer" in line for line in lines)


def test_probes_are_not_logged(server: Server) -> None:
    since = server.mark()
    for path in ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}").close()
    assert server.lines(since) == []


def test_a_client_that_leaves_is_499(server: Server) -> None:
    since = server.mark()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"POST /v1/layers/relu HTTP/1.1\r\nHost: a\r\nX-Request-ID: left\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        time.sleep(0.2)
    server.end_of(b'"left"')
    [line] = map(json.loads, server.lines(since))
    assert (line["status"], line["level"], line["response_bytes"]) == (499, "info", 0)


def test_nothing_is_lost_at_the_exit(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    with log.open("wb") as file, serving("--workers", "2", log=file) as port:
        server = Server(port, log)
        server.mark()
        for _ in range(50):
            post(server).close()
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert sum(line.get("layer") == "relu" for line in lines) == 50
    assert all(line["time"] and line["level"] and line["event"] for line in lines)
    assert sum(line["event"].startswith("Uvicorn running on") for line in lines) == 1


def test_warnings_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_LOG_LEVEL", "warning")
    log = tmp_path / "stderr"
    with log.open("wb") as file, serving(log=file) as port:
        for _ in range(3):
            post(Server(port, log)).close()
    assert log.read_bytes() == b""


def test_requests_go_on_where_nobody_reads_the_log() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file, serving(log=file) as port:
        os.close(reading)
        for _ in range(3):
            with post(Server(port, Path())) as answer:
                assert answer.status == 200
            time.sleep(0.05)


def test_requests_go_on_where_the_log_is_not_read_for_a_while() -> None:
    sent, (reading, writing) = 600, os.pipe()
    with os.fdopen(writing, "wb") as file, serving(log=file) as port:
        with socket.create_connection(("127.0.0.1", port), 120) as client:
            for _ in range(sent // 10):
                client.sendall(10 * b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n")
                answers = b""
                while answers.count(b"HTTP/1.1 404") < 10:
                    answers += client.recv(1 << 20)
        text = b""
        while text.count(b'"request"') < sent:  # now somebody reads
            text += os.read(reading, 1 << 20)
    os.close(reading)
    assert len(text) > 1 << 16, "a pipe takes all of it"
    assert all(json.loads(line)["time"] for line in text.splitlines())


def test_an_exit_does_not_wait_for_who_reads_the_log() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "wb", 0) as file:
        while file.write(bytes(1 << 16)):
            pass
        os.set_blocking(writing, True)
        with serving(log=file) as port:  # whose end has its limit
            post(Server(port, Path())).close()
    os.close(reading)
