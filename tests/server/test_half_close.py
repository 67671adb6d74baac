"""Clients that end their side of a connection: some still read, others have left."""

import socket
import time

import pytest

from tests._serving import Serving, wait_for
from tests._wire import Heard, ask, closing, exchange, get, hear, post

KIB = 1 << 10
SLOW = get("/sleep/200")
WHOLE: dict[str, tuple[bytes, list[int]]] = {
    "one request": (get("/livez"), [200]),
    "one slow request": (SLOW, [200]),
    "quick ones": (get("/livez") + get("/early") + get("/livez"), [200, 401, 200]),
    "slow ones": (SLOW * 3, [200] * 3),
    "a slow one, then quick ones": (SLOW + get("/early") + get("/livez"), [200, 401, 200]),
    "as many as may wait": (SLOW + get("/livez") * 16, [200] * 17),
    "bodies": (SLOW + post("/echo", bytes(300 * KIB)) * 3, [200] * 4),
    "large answers": (SLOW + get("/large/4000000") * 3, [200] * 4),
    "one that closes": (SLOW + closing("/livez"), [200, 200]),
    "one behind one that closes": (SLOW + closing("/livez") + get("/livez"), [200, 200]),
}
PART: dict[str, tuple[bytes, list[int]]] = {
    "nothing": (b"", []),
    "half a head": (get("/livez")[:-2], []),
    "half a body": (post("/echo", b"1234")[:-1], []),
    "half a head behind a request": (SLOW + get("/livez")[:-2], [200]),
    "half a body behind a request": (SLOW + post("/echo", b"1234")[:-1], [200]),
    "half a body behind two": (SLOW + get("/early") + post("/echo", b"1234")[:-1], [200, 401]),
    "nonsense behind a request": (SLOW + b"NONSENSE\r\n\r\n", [200]),
    "a broken body behind a request": (
        SLOW + get("/echo", "Transfer-Encoding: chunked", method="POST") + b"xyz\r\n",
        [200],
    ),
    "the rest of a body that is answered": (post("/early", b"1234")[:-1], [401]),
    "HTTP/1.0": (SLOW.replace(b"HTTP/1.1", b"HTTP/1.0"), []),
}


def half_closed(server: Serving, sent: bytes, pause_s: float) -> Heard:
    """What comes back to a client that sends this and ends its side."""
    with server.connect() as connection:
        connection.sendall(sent)
        time.sleep(pause_s)
        connection.shutdown(socket.SHUT_WR)
        return hear(connection)


@pytest.mark.parametrize("pause_s", [0, 0.05])
@pytest.mark.parametrize("case", [*WHOLE, *PART])
def test_what_came_whole_is_answered(lenient: Serving, case: str, pause_s: float) -> None:
    sent, statuses = (WHOLE | PART)[case]
    heard = half_closed(lenient, sent, pause_s)
    assert heard.statuses == statuses
    assert heard.closed
    assert not heard.reset


@pytest.mark.parametrize("case", ["a slow one, then quick ones", "bodies", "large answers"])
def test_the_answers_are_those_of_a_connection_that_stays_open(lenient: Serving, case: str) -> None:
    sent, _ = WHOLE[case]
    half, whole = half_closed(lenient, sent, 0), exchange(lenient, sent)
    assert half.data.count(b"connection: close") == 1
    end = half.data.index(b"connection: close")
    assert half.data[end:].count(b"HTTP/1.1 ") == 0  # it is in the last answer
    bodies = [answer.partition(b"\r\n\r\n")[2] for answer in half.data.split(b"HTTP/1.1 ")]
    assert bodies == [answer.partition(b"\r\n\r\n")[2] for answer in whole.data.split(b"HTTP/1.1 ")]


def test_a_client_that_reads_is_probed_and_answered(server: Serving) -> None:
    heard = half_closed(server, get("/sleep/2500") + get("/livez"), 0)
    assert heard.statuses == [100, 200, 200]
    assert heard.data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def seen(server: Serving) -> list[int]:
    """Requests for `/wait` that have begun, and those whose client is known to have left."""
    data = exchange(server, closing("/seen")).data
    return [int(number) for number in data.rpartition(b"\r\n")[2].split()]


def test_a_client_that_left_is_noticed_and_what_it_had_queued_does_not_begin(
    server: Serving,
) -> None:
    begun, left = seen(server)
    with server.connect() as connection:
        connection.sendall(get("/wait"))
        wait_for(lambda: seen(server) == [begun + 1, left])
    wait_for(lambda: seen(server) == [begun + 1, left + 1])
    with server.connect() as connection:
        ask(connection, get("/livez") + get("/wait") * 3)
        connection.shutdown(socket.SHUT_WR)
        wait_for(lambda: seen(server) == [begun + 2, left + 1])
    wait_for(lambda: seen(server) == [begun + 2, left + 2])
    time.sleep(0.2)
    assert seen(server) == [begun + 2, left + 2]
