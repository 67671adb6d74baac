"""What a real server prints: neither its keys nor anything that a client sent, whatever it sent."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests._serving import serving

KEY, FILE_KEY = "secret-key-7f3a91c2-variable", "secret-key-7f3a91c2-file"
SECRET = "7f3a91c2"  # of both keys, and of whatever is sent
CANARY = f"canary-{SECRET}"
ESCAPES = "\x1b[31m", "%0d%0aX-Evil:%201", "%1b%5b31m", "\u2028"
NUMBER = "1234567.0625"


def exchange(port: int, request: bytes) -> bytes:
    """What comes back on a connection of its own, until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), 120) as connection:
        connection.sendall(request)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


def request(line: str, body: bytes = b"", key: str = KEY, **headers: str) -> bytes:
    lines = {
        "Host": f"{CANARY}.example",
        "Connection": "close",
        "Authorization": f"Bearer {key}",
        "User-Agent": CANARY,
        "Referer": f"https://{CANARY}/",
        "Cookie": CANARY,
        "X-Request-ID": f"<{CANARY}>",
        "X-Forwarded-For": CANARY,
        "X-Request-Timeout-Ms": CANARY,
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{line} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body


def requests() -> Iterator[bytes]:
    """Requests of every kind, each with the canary wherever it has room."""
    relu, js = "POST /v1/layers/relu", {"Content_Type": "application/json"}
    for key in (KEY, FILE_KEY, f"wrong-{CANARY}"):
        for path in ("/v1/info", "/livez", "/metrics", f"/{CANARY}", f"/errors/{CANARY}",
                     f"/v1/layers/{CANARY}", f"/v2/models/{CANARY}", f"/docs/assets/{CANARY}",
                     *(f"/{CANARY}{text}" for text in ESCAPES),
                     f"/v1/info?key={KEY}&{CANARY}"):  # fmt: skip
            yield request(f"GET {path}", key=key)
        for body in (
            {"input": [float(NUMBER)]},
            {"input": CANARY},
            {"input": [1], CANARY: CANARY},
            {"input": [1], "layout": CANARY},
        ):
            yield request(relu, json.dumps(body).encode(), key=key, **js)
            shape = f"{relu}/shape"
            yield request(shape, json.dumps(body).encode(), key=key, **js)
            yield request("POST /v2/models/relu/infer", json.dumps(body).encode(), key=key)
        yield request(relu, CANARY.encode(), key=key, **js)
        yield request(relu, b"{}", key=key, Content_Type=CANARY)
        yield request(relu, b"{}", key=key, Accept=CANARY, **js)
        yield request(relu, b"{}", key=key, Content_Encoding=CANARY, **js)
        yield request(relu, CANARY.encode() * 8000, key=key, **js)
        yield request(f"{SECRET.upper()} /v1/info", key=key)
    # Not HTTP, or cut short: the server itself sees these.
    yield request("GET /v1/info", X_Request_ID=f"{CANARY}\x1b[31m")
    yield f"{CANARY}\r\n\r\n".encode()
    yield f"GET /{CANARY} HTTP/9.9\r\n\r\n".encode()
    yield f"GET / HTTP/1.1\r\n{CANARY}\r\n\r\n".encode()
    yield f"GET / HTTP/1.1\r\nHost: a\r\nX: {CANARY}\x00\x1b\r\n\r\n".encode()
    yield f"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {CANARY}\r\n\r\n".encode()
    yield request(relu, CANARY.encode(), Transfer_Encoding="chunked", **js)
    yield request(relu, b"{}", Content_Length="99", **js)


@pytest.mark.slow
def test_a_servers_output_holds_no_secret_and_nothing_of_a_client(tmp_path: Path) -> None:
    log, keys = tmp_path / "log", tmp_path / "keys"
    keys.write_text(f"# {CANARY}\n{FILE_KEY}\n")
    settings: dict[str, Any] = {
        "API_KEYS": KEY,
        "API_KEYS_FILE": str(keys),
        "MAX_JSON_BODY_BYTES": "65536",
        "CORS_ORIGINS": "https://a.example",
        "TRUSTED_PROXIES": "127.0.0.1",
        "BODY_IDLE_TIMEOUT_MS": "1000",
    }
    with serving(log=log, **settings) as port:
        answers = [exchange(port, sent) for sent in requests()]
        metrics = exchange(port, request("GET /metrics"))
    assert sum(answer.startswith(b"HTTP/1.1 200") for answer in answers) >= 6
    assert sum(answer.startswith(b"HTTP/1.1 401") for answer in answers) >= 20
    assert b"HTTP/1.1 500" not in b"".join(answers)
    assert b"lamina_request_seconds" in metrics
    assert b'lamina_denied_requests_total{reason="malformed-http"}' in metrics
    printed = log.read_bytes()
    assert b"Uvicorn running" in printed or b"running" in printed, "the log is there to be read"
    for text in (SECRET, SECRET.upper(), NUMBER, "1234567"):
        assert text.encode() not in printed
        assert text.encode() not in metrics
    assert b"\x1b" not in printed
    assert b"Traceback" not in printed


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("API_KEYS", f"{KEY},{SECRET}"),
        ("API_KEYS", f"{KEY} {SECRET}"),
        ("API_KEYS", f"{KEY}\u00fc{SECRET}"),
        ("API_KEYS_FILE", "a file of weak keys"),
        ("API_KEY", KEY),
        ("API_KEYS_FILES", "a file of keys"),
    ],
)
def test_a_start_that_fails_prints_one_line_without_a_key(
    variable: str, value: str, tmp_path: Path
) -> None:
    if "file" in value:
        file = tmp_path / "keys"
        file.write_text(f"{KEY}\n{SECRET if 'weak' in value else KEY}\n")
        value = str(file)
    environment = os.environ | {f"LAMINA_{variable}": value, "LAMINA_DEVICE": "cuda:99"}
    done = subprocess.run(
        [sys.executable, "-m", "app.server.cli", "serve", "--port", "0"],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr
    assert done.stderr.startswith("lamina: LAMINA_")


@pytest.mark.slow
def test_what_the_server_refuses_itself_is_counted_told_and_readable(tmp_path: Path) -> None:
    log, origin = tmp_path / "log", "https://a.example"
    with serving(log=log, CORS_ORIGINS=origin) as port:
        bad = f"GET /livez HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nX_A: 1\r\n\r\n".encode()
        refused = exchange(port, bad)
        silent = exchange(port, b"NONSENSE\r\n\r\n")
        metrics = exchange(port, request("GET /metrics")).decode()
        served = exchange(port, request("GET /nowhere", Origin=origin))
    for answer in (refused, silent, served):
        assert b"vary: Origin\r\n" in answer
        assert (b"access-control-allow-origin: " in answer) == (answer != silent)
    exposed = [line for line in served.split(b"\r\n") if line.startswith(b"access-control-")]
    assert exposed
    assert all(line in refused for line in exposed)
    assert 'lamina_denied_requests_total{reason="malformed-http"} 2.0' in metrics
    lines = [line for line in map(json.loads, log.read_text().splitlines()) if "client" in line]
    [told, _] = [line for line in lines if line["event"] == "connection refused: malformed-http"]
    assert told["request_id"] in refused.decode()
    assert (told["level"], told["client"]) == ("warning", "127.0.0.1")
