"""The protocol's bounds and deadlines, on real connections."""

import gc
import json
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.server.protocol import Protocol
from app.server.refusals import LINES_A_SECOND
from tests._serving import Serving, started, wait_for
from tests._wire import ask, begun, chunked, closing, exchange, get, hear, post
from tests.server._in_process import Connection
from tests.server.conftest import LENIENT_S
from tests.server.stand_in import APP

KIB, MIB = 1 << 10, 1 << 20


def problem_of(data: bytes) -> dict[str, object]:
    """The problem in an answer, after checks that hold for every one."""
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"connection"] == b"close"
    assert int(fields[b"content-length"]) == len(body)
    found: dict[str, object] = json.loads(body)
    assert found["request_id"] == fields[b"x-request-id"].decode()
    assert int(head.split()[1]) == found["status"]
    return found


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"NONSENSE\r\n\r\n", 400, "malformed-http"),
        (get("/livez", "X_A: 1"), 400, "malformed-http"),
        (get("/livez", "Host: other"), 400, "malformed-http"),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400, "malformed-http"),
        (get("/livez", "X: " + "a" * 33 * KIB), 431, "headers-too-large"),
        (chunked("/echo", b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "malformed-http"),
        (get("/echo", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 400, "malformed-http"),
        (
            get("/echo", "Transfer-Encoding: identity", "Transfer-Encoding: chunked"),
            400,
            "malformed-http",
        ),
        (get("/" + "a" * 33 * KIB), 431, "headers-too-large"),
        (get("/livez", *(f"X{n}: 1" for n in range(100))), 431, "headers-too-large"),
        (get("/livez", *(f"X{n}: {'a' * 999}" for n in range(40))), 431, "headers-too-large"),
        (b"GET /" + b"a" * 2 * MIB, 431, "headers-too-large"),
        (get("/livez") + b"X: " + b"a" * 2 * MIB, 200, ""),
    ],
)
def test_the_protocol_answers_in_our_form(
    server: Serving, request_: bytes, status: int, code: str
) -> None:
    heard = exchange(server, request_)
    assert heard.closed
    assert not heard.reset
    assert heard.statuses[0] == status
    if status != 200:
        assert heard.statuses == [status]
        found = problem_of(heard.data)
        assert found["status"] == status
        assert found["type"] == f"/errors/{code}"


def test_what_is_just_within_the_limits_is_served(lenient: Serving) -> None:
    wide = get("/livez", *(f"X{n}: 1" for n in range(98)), "Connection: close")
    assert exchange(lenient, wide).statuses == [200]
    room = 32 * KIB - 200
    assert exchange(lenient, closing("/livez", f"X: {'a' * room}")).statuses == [200]
    # In many pieces.
    slow = closing("/livez", f"X: {'a' * 1000}")
    pieces = [slow[i : i + 100] for i in range(0, len(slow), 100)]
    assert exchange(lenient, *pieces, pause_s=0.01).statuses == [200]


def test_head_gets_no_body(server: Serving) -> None:
    heard = exchange(server, get("/livez", "X_A: 1", method="HEAD"))
    assert heard.statuses == [400]
    assert heard.data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /livez HT", get("/livez")[:-2]])
def test_a_head_has_its_deadline(server: Serving, sent: bytes) -> None:
    heard = exchange(server, sent)
    assert heard.closed
    assert heard.data == b""
    assert heard.seconds > 0.5


def test_a_trickling_head_has_the_same_deadline(server: Serving) -> None:
    pieces = [bytes([byte]) for byte in closing("/livez", "X: " + "a" * 100)]
    heard = exchange(server, *pieces, pause_s=0.1)  # its end would come after 14 s
    assert heard.data == b""
    assert heard.closed


def test_the_deadline_begins_anew_with_each_request(lenient: Serving) -> None:
    requests = [get("/livez")] * 4
    heard = exchange(lenient, *requests, closing("/livez"), pause_s=1.2)
    assert heard.statuses == [200] * 5
    assert heard.seconds > LENIENT_S


def test_an_idle_connection_is_closed(server: Serving) -> None:
    heard = exchange(server, get("/livez"))
    assert heard.statuses == [200]
    assert heard.closed
    assert heard.seconds > 0.8


@pytest.mark.parametrize("tail", [b"\r\n", b"GET /li"])
def test_bytes_behind_a_request_do_not_keep_its_connection(server: Serving, tail: bytes) -> None:
    heard = exchange(server, get("/livez"), tail, pause_s=0.2)
    assert heard.statuses == [200]
    assert heard.closed


def test_a_body_that_stalls_is_told_so(server: Serving) -> None:
    for path in ("/echo", "/deaf"):
        heard = exchange(server, post(path, b"12345")[:-1])
        assert heard.statuses == [408]
        assert problem_of(heard.data)["type"] == "/errors/body-timeout"
        assert heard.seconds > 0.9


def test_a_slow_body_is_taken(lenient: Serving) -> None:
    whole = post("/echo", b"1234", "Connection: close")
    heard = exchange(lenient, whole[:-4], b"1", b"2", b"3", b"4", pause_s=1.2)
    assert heard.statuses == [200]
    assert b"\r\n\r\n4 " in heard.data


@pytest.mark.parametrize("path", ["/early", "/early-close"])
def test_an_early_answer_reaches_a_client_that_still_sends(lenient: Serving, path: str) -> None:
    heard = exchange(lenient, post(path, bytes(8 * MIB)))
    assert heard.statuses == [401]
    assert not heard.reset
    assert heard.data.endswith(b"early")


def test_the_rest_of_an_answered_body_is_waited_for_briefly(
    server: Serving, lenient: Serving
) -> None:
    whole = post("/early", b"1" * 600)
    trickle = [whole[:-600], *[b"1"] * 600]
    heard = exchange(server, *trickle, pause_s=0.1)
    assert heard.statuses == [401]
    assert heard.seconds < 50  # its end would come after 60 s
    # Where it comes, the connection serves on.
    heard = exchange(lenient, whole[:-1], whole[-1:] + closing("/livez"), pause_s=0.2)
    assert heard.statuses == [401, 200]
    # It does not stay open for ever, either.
    heard = exchange(server, whole[:-1], whole[-1:], pause_s=0.2)
    assert heard.closed


def test_a_client_that_does_not_read_is_dropped(server: Serving) -> None:
    with server.connect() as connection:
        connection.sendall(closing(f"/large/{64 * MIB}"))
        wait_for(lambda: server.holds(connection))
        wait_for(lambda: not server.holds(connection))
        heard = hear(connection)
    assert heard.closed
    assert len(heard.data) < 32 * MIB


def test_a_slow_reader_that_goes_on_reading_gets_it_all(lenient: Serving) -> None:
    begun = time.perf_counter()
    got = 0
    with lenient.connect() as connection:
        connection.sendall(closing(f"/large/{24 * MIB}"))
        while piece := connection.recv(MIB):
            got += len(piece)
            time.sleep(0.3 if time.perf_counter() - begun < 1.5 * LENIENT_S else 0)
    assert got > 24 * MIB
    assert time.perf_counter() - begun > LENIENT_S


def test_trailers_are_no_headers(server: Serving) -> None:
    body = b"1\r\na\r\n0\r\nX-Trailer: sneaked\r\n\r\n"
    heard = exchange(server, chunked("/header", body))
    assert heard.statuses == [200]
    assert b"sneaked" not in heard.data


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_a_wish_for_another_protocol_is_ignored(lenient: Serving, protocol: str) -> None:
    wish = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AA")
    first = post("/echo", b"GET /crash HTTP/1.1\r\n\r\n", *wish)
    for pause_s in (0.0, 0.2):
        pieces = (first[:-10], first[-10:] + closing("/header", "X-Test: kept", *wish))
        heard = exchange(lenient, *pieces, pause_s=pause_s)
        assert heard.statuses == [200, 200]
        assert b"\r\n\r\n23 " in heard.data
        assert heard.data.endswith(b"kept")


def test_pipelined_requests_are_answered_in_order(server: Serving) -> None:
    paths = ["/sleep/200", "/early", "/livez", "/early"]
    heard = exchange(server, b"".join(get(path) for path in paths) + closing("/livez"))
    assert heard.statuses == [200, 401, 200, 401, 200]


def test_nonsense_behind_a_request_gets_no_answer_before_it(server: Serving) -> None:
    heard = exchange(server, get("/sleep/300") + b"NONSENSE\r\n\r\n")
    assert heard.statuses == [200]
    heard = exchange(server, get("/sleep/3000"), b"NONSENSE\r\n\r\n", pause_s=0.1)
    assert heard.statuses == [200]
    bad = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"
    heard = exchange(server, get("/sleep/300") + bad)
    assert heard.statuses == [200]
    assert heard.closed


def test_pipelining_is_bounded(server: Serving) -> None:
    heard = exchange(server, get("/sleep/300") + get("/livez") * 5000)
    assert heard.closed
    assert 1 <= len(heard.statuses) <= 20
    assert set(heard.statuses) == {200}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"zz\r\n", 400),
        (b"1\r\na\r\n" * 300_000 + b"0\r\n\r\n", 400),
        (b"1;" + b"x" * MIB + b"\r\na\r\n0\r\n\r\n", 400),
        (b"0\r\n" + b"X-Trailer: y\r\n" * 100_000 + b"\r\n", 400),
        (b"3e8\r\n" + b"a" * 1000 + b"\r\n", 408),
        ((b"14\r\n" + b"a" * 20 + b"\r\n") * 100_000 + b"0\r\n\r\n", 200),
    ],
)
def test_chunks(lenient: Serving, body: bytes, status: int) -> None:
    heard = exchange(lenient, chunked("/echo", body))
    assert heard.statuses == [status]
    assert not heard.reset


def test_arrival_is_in_the_scope(server: Serving) -> None:
    heard = exchange(server, closing("/arrived")[:-4], closing("/arrived")[-4:], pause_s=0.3)
    assert float(heard.data.rpartition(b"\r\n")[2]) >= 0.29


def test_connections_over_the_limit_are_told_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    log = tmp_path_factory.mktemp("limit") / "log"
    settings = {"MAX_CONNECTIONS": "20", "DRAIN_DELAY_MS": "0"}
    with started(log=log, app=APP, settings=settings) as server:
        held = [begun(server, "/sleep/600000") for _ in range(20)]
        unasked = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            for heard in pool.map(lambda _: exchange(server, closing("/echo")), range(60)):
                assert heard.statuses == [503]
                assert problem_of(heard.data)["type"] == "/errors/too-many-connections"
                assert b"retry-after: " in heard.data
                assert not heard.reset
        # A flood of refusals is no flood of lines.
        seconds = int(time.monotonic() - unasked) + 2
        assert log.read_text().count("connection refused") <= LINES_A_SECOND * seconds
        # Idle ones make room when it is crowded.
        for connection in held:
            connection.close()
        wait_for(lambda: exchange(server, closing("/echo")).statuses == [200])
        idle = list[socket.socket]()
        while len(idle) < 20:
            connection = server.connect()
            if ask(connection, get("/echo")).startswith(b"HTTP/1.1 200"):
                idle.append(connection)
        wait_for(lambda: exchange(server, closing("/echo")).statuses == [200])


def test_a_full_process_still_answers_its_probes(tmp_path: Path) -> None:
    settings = {"MAX_CONNECTIONS": "10", "DRAIN_DELAY_MS": "0", "HEADER_TIMEOUT_MS": "600000"}
    settings |= {"DRAIN_GRACE_MS": "2000"}
    with started(log=tmp_path / "log", app=APP, settings=settings) as server:
        for _ in range(10):
            server.connect().sendall(b"GET /echo HT")
        wait_for(lambda: exchange(server, closing("/echo")).statuses == [503])
        for path in ("/livez", "/readyz", "/metrics", "/metrics?name=up"):
            heard = exchange(server, get(path) * 2)  # the second is not served
            assert heard.statuses == [200]
            assert b"connection: close" in heard.data
            assert heard.closed
        for request_ in (get("/echo"), post("/livezz", b"1"), get("/livez/"), get("/li")[:-2]):
            heard = exchange(server, request_)
            assert heard.statuses == [503]
            assert problem_of(heard.data)["type"] == "/errors/too-many-connections"
        server.stop(signal.SIGINT)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sent", "crowd", "reason"),
    [
        (b"NONSENSE\r\n\r\n", 0, "malformed-http"),
        (get("/", "X: " + "a" * 33 * KIB), 0, "headers-too-large"),
        (get("/"), 10, "too-many-connections"),
    ],
)
async def test_refusals_are_counted(
    sent: bytes, crowd: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMINA_MAX_CONNECTIONS", "10")
    connection, denied = Connection(Protocol), list[str]()
    connection.app_state["denied"] = denied.append
    connection.state.connections.update(Connection(Protocol).protocol for _ in range(crowd))
    connection.protocol.connection_made(connection.wire)
    connection.protocol.data_received(sent)
    assert denied == [reason]


def test_the_garbage_collector_skips_what_stays_loaded(server: Serving) -> None:
    heard = exchange(server, closing("/collectable"))
    assert 0 < int(heard.data.rpartition(b"\r\n")[2]) < len(gc.get_objects()) / 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's table of connections")
def test_the_kernel_holds_little_for_a_client_that_does_not_read(lenient: Serving) -> None:
    local = f"0100007F:{lenient.port:04X}"
    with lenient.connect() as connection:
        connection.sendall(get("/large/8000000"))
        peer = f"0100007F:{connection.getsockname()[1]:04X}"

        def unsent() -> int:
            rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            [found] = [row[4].partition(":")[0] for row in rows if row[1:3] == [local, peer]]
            return int(found, 16)

        wait_for(lambda: unsent() > 64 * KIB)
        assert unsent() < 512 * KIB
