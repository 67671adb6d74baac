"""Several processes: threads divided among them, counts added up."""

import json
import urllib.request

from app.compute.device import thread_count
from tests._serving import serving, wait_for

BODY = {"inputs": [{"name": "input", "shape": [2], "datatype": "FP32", "data": [-1, 2]}]}
REQUESTS = 24


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

        def counts() -> set[int]:
            """What both workers say, one of which answers each time."""
            path, found = "/v2/models/relu/stats", set()
            for _ in range(12):
                stats = json.loads(fetch(port, path))["model_stats"][0]
                found.add(stats["inference_stats"]["success"]["count"])
            return found

        # Each worker notes its own at once, the other's within a twentieth of a second.
        wait_for(lambda: counts() == {REQUESTS})
        lines = set()
        for _ in range(12):
            text = fetch(port, "/metrics").decode()
            lines |= {
                line
                for line in text.splitlines()
                if line.startswith("lamina_request_seconds_count") and 'layer="relu"' in line
            }
        assert any(line.endswith(f" {REQUESTS}.0") for line in lines)
        info = json.loads(fetch(port, "/v1/info"))
        assert info["workers"] == 2
        assert info["threads"] == thread_count(None, 2)
