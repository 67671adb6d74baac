"""Many of the largest requests at a time, in a container of a given size."""

import asyncio
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import psutil

from app.codecs import SAFETENSORS
from app.codecs import safetensors as codec
from app.scheduling import memory_budget
from app.schemas.tensors import TensorPayload
from tests._load import Connection, ask, run, settled
from tests._serving import MIB, Serving, apart
from tests._soak import rounds
from tests._wire import JSON, get, post
from tests.load._cgroup import memory_group
from tests.load._requests import body

CLIENTS = rounds(24, 64)
ROUNDS = rounds(1, 4)
CONTAINER_BYTES = rounds(768, 1536) * MIB
JSON_BYTES, BINARY_BYTES = rounds(4, 16) * MIB, rounds(16, 64) * MIB
"""The limits of a body."""
KEEP_BYTES = 4096


def largest() -> dict[str, bytes]:
    """The largest requests that the limits allow, with and without gradients."""
    numbers = (BINARY_BYTES - 1024) // 4
    tensor = TensorPayload("float32", (1, numbers), memoryview(bytearray(4 * numbers)))
    packed = b"".join(codec.encode({"input": tensor}))
    graded = b"".join(codec.encode({"input": tensor, "grad_output": "ones"}))
    text = body((1, JSON_BYTES * 10 // 73))
    assert JSON_BYTES * 0.9 < len(text) <= JSON_BYTES
    kind = (f"Content-Type: {SAFETENSORS}", f"Accept: {SAFETENSORS}")
    return {
        "binary": post("/v1/layers/relu", packed, *kind),
        "binary with gradients": post("/v1/layers/relu", graded, *kind),
        "json": post("/v1/layers/relu", text, JSON),
    }


async def crowd(server: Serving) -> Counter[tuple[str, int]]:
    """All clients at once; how each of their requests ended."""
    seen, requests = Counter[tuple[str, int]](), list(largest().items())

    async def client(number: int) -> None:
        for turn in range(ROUNDS):
            kind, request = requests[(number + turn) % len(requests)]
            connection = await Connection.open(server.port, keep_bytes=KEEP_BYTES)
            answer = await connection.ask(request)
            connection.close()
            seen[kind, answer.status] += 1

    await asyncio.gather(*map(client, range(CLIENTS)))
    return seen


def test_largest_requests_in_a_small_container(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(str(CONTAINER_BYTES))
    settings = {
        "MAX_JSON_BODY_BYTES": str(JSON_BYTES),
        "MAX_BINARY_BODY_BYTES": str(BINARY_BYTES),
        "MEMORY_BUDGET_BYTES": str(memory_budget(1, JSON_BYTES, tmp_path)),
        "QUEUE_TIMEOUT_MS": str(rounds(120_000, 20_000)),
        "BODY_IDLE_TIMEOUT_MS": "600000",
        "REQUEST_TIMEOUT_MS": "600000",
    }
    with (
        memory_group(CONTAINER_BYTES) as group,
        apart(around=group.joined() if group else nullcontext(), **settings) as server,
    ):
        if group is None:
            held = server.system.memory_info()
            most = held.vms - held.rss + CONTAINER_BYTES
            server.system.rlimit(psutil.RLIMIT_AS, (most, most))
        seen = run(lambda: crowd(server))
        gauges = run(lambda: settled(server.port))
        print(seen, group and group.peak_bytes // MIB, server.peak_rss_bytes // MIB)
        assert run(lambda: ask(server.port, get("/livez"))).status == 200
        assert not any(gauges.values()), gauges
        assert group is None or not group.kills
    assert {status for _, status in seen} <= {200, 503}, seen
    assert all(seen[kind, 200] for kind in ("binary", "json")), seen
