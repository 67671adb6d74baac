"""Hundreds of clients that send slowly, not at all, or do not read: each costs little, for a
while.
"""

import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests._load import Probes, percentile
from tests._serving import Serving, started, wait_for
from tests._soak import SOAK, rounds, within_s
from tests._wire import closing, exchange, get

DEADLINE_S = 2.0
RATE_HZ = 40
MIB = 1 << 20


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    settings = {
        "HEADER_TIMEOUT_MS": "2000",
        "BODY_IDLE_TIMEOUT_MS": "2000",
        "WRITE_TIMEOUT_MS": "2000",
        "KEEP_ALIVE_TIMEOUT_MS": "2000",
        "DRAIN_DELAY_MS": "0",
    }
    with started(log=tmp_path / "log", settings=settings) as serving:
        yield serving


def cut_after(
    connections: dict[socket.socket, float], trickling: list[socket.socket], until: float
) -> list[float]:
    """How long each connection lived; those that trickle send a byte now and then."""
    selector = selectors.DefaultSelector()
    for connection in connections:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, connection)
    lives = []
    while connections and time.perf_counter() < until:
        for key, _ in selector.select(0.1):
            connection = key.data
            try:
                over = not connection.recv(4096)
            except ConnectionError:
                over = True
            if over:
                selector.unregister(connection)
                lives.append(time.perf_counter() - connections.pop(connection))
                connection.close()
        for connection in trickling:
            if connection in connections:
                try:
                    connection.send(b"a")
                except OSError:
                    continue
    for connection in connections:
        connection.close()
    return lives


def test_slow_clients_are_cut_and_cost_little(service: Serving) -> None:
    for _ in range(50):
        exchange(service, closing("/openapi.json"))
    before = service.rss_bytes
    peak = before
    connections: dict[socket.socket, float] = {}
    trickling, deaf = [], []
    count = rounds(100, 500)
    probes = Probes(service.port, int((DEADLINE_S + 3) * RATE_HZ), RATE_HZ)
    probes.start()
    for number in range(count):
        idle, slow = service.connect(), service.connect()
        connections[idle] = connections[slow] = time.perf_counter()
        slow.sendall(b"GET /livez HTTP/1.1\r\nX: " if number % 2 else b"GE")
        trickling.append(slow)
        peak = max(peak, service.rss_bytes)
    for _ in range(rounds(10, 50)):
        connection = service.connect()
        connection.sendall(get("/openapi.json") * 16)
        deaf.append(connection)
    opened = time.perf_counter()
    lives = cut_after(connections, trickling, opened + DEADLINE_S + within_s(1.5))
    peak = max(peak, service.rss_bytes)
    probes.join()
    p50_ms, p99_ms = (percentile(probes.took_ms, share) for share in (0.5, 0.99))
    growth = (peak - before) / MIB
    wait_for(lambda: not service.clients, within_s(2.5))
    print(
        f"{count} idle, {count} trickling, {len(deaf)} deaf: cut after at most {max(lives):.2f} s, "
        f"/livez p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, "
        f"max {max(probes.took_ms):.1f} ms, memory +{growth:.1f} MiB"
    )
    assert len(lives) == 2 * count
    assert max(lives) < DEADLINE_S + within_s(1)
    assert growth < 64
    assert not probes.missed
    if SOAK:
        assert p99_ms < 50
