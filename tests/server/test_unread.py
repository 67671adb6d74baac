"""Clients that do not read: what they hold is bounded for all of them together."""

import json
import socket
import time
from pathlib import Path

import pytest

from app.server.unread import Unread
from tests._serving import started
from tests._wire import closing, exchange

MIB = 1 << 20
CLIENTS = 150
NUMBERS = 38_000
BODY = json.dumps(
    {"input": [[[1.2345678901234567]]], "output_size": NUMBERS, "dtype": "float64"}
).encode()
"""Asks for some 0.7 MB."""
REQUEST = (
    b"POST /v1/layers/adaptive_avg_pool1d HTTP/1.1\r\nHost: a\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


class Stand:
    """A transport's buffer."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.cut = False

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.cut, self.left = True, 0


def test_the_largest_of_those_that_stand_still_are_cut_while_there_is_too_much() -> None:
    small, large, huge, moving = stands = [Stand(10), Stand(40), Stand(50), Stand(60)]
    unread = Unread(100)
    for now in (0.0, 0.5):  # there is 1.6 times the bound
        assert unread.check(stands, now) == 0
        moving.left -= 1
    assert unread.check(stands, 1.0) == 2
    assert [stand.cut for stand in (small, large, huge, moving)] == [False, True, True, False]
    moving.left = 90
    assert unread.check(stands, 9.0) == 0


def test_far_above_the_bound_there_is_less_patience() -> None:
    stands, unread = [Stand(100) for _ in range(5)], Unread(100)
    assert [unread.check(stands, now) for now in (0.0, 0.1, 0.2)] == [0, 0, 4]


@pytest.mark.slow
def test_clients_that_do_not_read_are_bounded_together(tmp_path: Path) -> None:
    settings = {"WRITE_TIMEOUT_MS": "600000", "KEEP_ALIVE_TIMEOUT_MS": "600000"}
    with started(log=tmp_path / "log", settings=settings) as service:
        most = 0
        exchange(service, closing("/livez"))
        before, held = service.rss_bytes, []
        for _ in range(CLIENTS):
            client = service.connections.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(REQUEST)
            held.append(client)
        until = time.monotonic() + 200
        while not cut(tmp_path) and time.monotonic() < until:
            most = max(most, service.rss_bytes - before)
            time.sleep(0.1)
        left = service.clients
        print(f"{CLIENTS} clients: memory +{most / MIB:.0f} MiB, {left} left")
        assert cut(tmp_path)
        assert 0 < left < CLIENTS
        assert exchange(service, closing("/livez")).statuses == [200]


def cut(folder: Path) -> bool:
    return "do not read" in (folder / "log").read_text()
