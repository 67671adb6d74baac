"""Health answers while the core is busy, the queues are full and the largest bodies come in."""

import asyncio
import time
from collections import Counter

import pytest

from tests._load import Answer, Connections, Probes, percentile, run, settled
from tests._serving import Serving, apart
from tests._soak import SOAK, rounds
from tests.load._requests import HEAVY, WINDOWS, request

PROBES = rounds(30, 600)
RATE_HZ = 10
LARGEST = request("relu", (1, 2_280_000))
"""15 MiB of JSON."""
PAUSES_S = (0.1, 0.01) if SOAK else (0.1,)
"""After how long a refused client comes back."""
P99_MS, MOST_MS = 50, 300
"""On a core of the service's own."""


def is_full(seen: Counter[tuple[str, int]]) -> bool:
    """Whether the queues were full, and every kind of work was done beside that."""
    refused = seen["heavy", 503] + seen["windows", 503]
    return bool(refused and seen["heavy", 200] and seen["largest", 200])


async def press(server: Serving, probes: Probes, pause_s: float) -> Counter[tuple[str, int]]:
    """Keep the service busy until the probes are done; what it answered to what.

    Refused clients come back after `pause_s`.
    """
    connections, seen = Connections(server.port), Counter[tuple[str, int]]()

    async def client(kind: str, work: bytes) -> None:
        while probes.is_alive() or not is_full(seen):
            answer: Answer = await connections.ask(work)
            seen[kind, answer.status] += 1
            if answer.status != 200:
                await asyncio.sleep(pause_s)

    await asyncio.gather(
        *(client("heavy", HEAVY) for _ in range(6)),
        *(client("windows", WINDOWS) for _ in range(8)),
        *(client("largest", LARGEST) for _ in range(3)),
    )
    connections.close()
    return seen


@pytest.mark.parametrize("pause_s", PAUSES_S)
def test_health_under_load(pause_s: float) -> None:
    assert 14 << 20 < len(LARGEST) < 16 << 20
    with apart(MAX_QUEUED_REQUESTS="4", QUEUE_TIMEOUT_MS="30000") as server:
        before_s, began_s = server.cpu_s, time.perf_counter()
        probes = Probes(server.port, PROBES, RATE_HZ)
        probes.start()
        seen = run(lambda: press(server, probes, pause_s))
        probes.join()
        busy = (server.cpu_s - before_s) / (time.perf_counter() - began_s)
        gauges = run(lambda: settled(server.port))
    p99_ms, most_ms = percentile(probes.took_ms, 0.99), max(probes.took_ms)
    found = f"p50 {percentile(probes.took_ms, 0.5):.1f}, p99 {p99_ms:.1f}, most {most_ms:.1f} ms"
    found += f", {busy:.2f} of a core, {seen}"
    print(found)
    assert is_full(seen)
    assert {status for _, status in seen} == {200, 503}
    assert not probes.missed
    assert not any(gauges.values()), gauges
    if SOAK:
        assert p99_ms <= P99_MS, found
        assert most_ms <= MOST_MS, found
