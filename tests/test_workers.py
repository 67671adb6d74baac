"""Several processes: threads divided among them, counts added up."""

import json
import re
import socket
import time
import urllib.request

from app.compute.device import thread_count
from tests._server import serving

BODY = {"inputs": [{"name": "input", "shape": [2], "datatype": "FP32", "data": [-1, 2]}]}
REQUESTS = 24
UNFINISHED = (
    b"POST /v1/layers/relu HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{"
)


def fetch(port: int, path: str, body: object = None) -> bytes:
    """On a connection of its own, which any worker may take."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data) as answer:
        found: bytes = answer.read()
        return found


def test_workers_count_together() -> None:
    with serving("--workers", "2") as port:
        for _ in range(REQUESTS):
            fetch(port, "/v2/models/relu/infer", BODY)
        # Each worker notes its own at once, the other's within a twentieth of a second.
        time.sleep(0.5)
        counts, lines = set(), set()
        for _ in range(12):
            stats = json.loads(fetch(port, "/v2/models/relu/stats"))["model_stats"][0]
            counts.add(stats["inference_stats"]["success"]["count"])
            text = fetch(port, "/metrics").decode()
            lines |= {
                line
                for line in text.splitlines()
                if line.startswith("lamina_request_seconds_count") and 'layer="relu"' in line
            }
        assert counts == {REQUESTS}
        assert any(line.endswith(f" {REQUESTS}.0") for line in lines)
        info = json.loads(fetch(port, "/v1/info"))
        assert info["workers"] == 2
        assert info["threads"] == thread_count(None, 2)
        shown = []
        for _ in range(8):  # at a worker of its own choice, as each scrape is
            with socket.create_connection(("127.0.0.1", port)) as begun:
                begun.sendall(UNFINISHED)
                time.sleep(0.4)
                shown.append(gauge(port, "in_flight_requests"))
            time.sleep(0.4)
        assert shown == [1] * 8


def gauge(port: int, name: str) -> float:
    found = re.search(rf"^lamina_{name} (.*)$", fetch(port, "/metrics").decode(), re.M)
    assert found
    return float(found[1])
