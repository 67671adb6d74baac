"""Behind a bad network a client gets the right answer or an error, never part of an answer."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests._load import Answer, ask, run, settled
from tests._serving import Serving, apart
from tests._soak import rounds, within_s
from tests._wire import JSON, get, post
from tests.load._proxy import STRAIGHT, Way, proxy
from tests.load._requests import MEDIUM, request

TINY = post("/v1/layers/relu", b'{"input":[-1,2]}', JSON)
LARGE = request("adaptive_avg_pool2d", (1, 1, 4, 4), output_size=[300, 300])
"""An answer of some 600 KB."""
REQUESTS = {"tiny": TINY, "medium": MEDIUM, "large": LARGE}
DRIP_S = rounds(5, 1000) / 1000
"""Between bytes."""
LIMIT_S = 1.5
HELD_MS = 800


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with apart(HEADER_TIMEOUT_MS="120000", BODY_IDLE_TIMEOUT_MS="120000") as found:
        yield found
        assert run(lambda: ask(found.port, get("/livez"))).status == 200


def through(server: Serving, work: bytes, *, up: Way = STRAIGHT, down: Way = STRAIGHT) -> Answer:
    """The answer to a request by way of the proxy."""

    async def whole() -> Answer:
        async with proxy(server.port, up=up, down=down) as port:
            answer = await ask(port, work)
        gauges = await settled(server.port)
        assert not any(gauges.values()), gauges
        return answer

    return run(whole)


def right(server: Serving, work: bytes) -> bytes:
    answer = run(lambda: ask(server.port, work))
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(answer.body)
    return bytes(answer.body)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("way", [Way(0.03), Way(0.0005, piece_bytes=700)])
def test_latency_and_small_pieces(server: Serving, kind: str, way: Way) -> None:
    work = REQUESTS[kind]
    answer = through(server, work, up=way, down=way)
    assert (answer.status, bytes(answer.body)) == (200, right(server, work))


@pytest.mark.parametrize("side", ["up", "down"])
def test_a_byte_at_a_time(server: Serving, side: str) -> None:
    """At 1 B/s with SOAK=1: the headers alone would take longer than they may, so they do not
    drip up.
    """
    drip = Way(0.01 if side == "up" else DRIP_S, piece_bytes=1)
    answer = through(server, TINY, up=drip) if side == "up" else through(server, TINY, down=drip)
    assert (answer.status, bytes(answer.body)) == (200, right(server, TINY))


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.9999])
def test_a_reset_within_the_request(server: Serving, kind: str, share: float) -> None:
    work = REQUESTS[kind]
    answer = through(server, work, up=Way(reset_after=max(1, int(share * len(work)))))
    assert answer.status == 0


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("gently", [False, True])
def test_an_answer_cut_off(server: Serving, kind: str, share: float, gently: bool) -> None:
    work = REQUESTS[kind]
    after = max(1, int(share * len(right(server, work))))
    way = Way(end_after=after) if gently else Way(reset_after=after)
    assert through(server, work, down=way).status == 0


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_client_that_ends_its_side_after_the_request(server: Serving, kind: str) -> None:
    work = REQUESTS[kind]
    answer = through(server, work, up=Way(end_after=len(work)))
    assert (answer.status, bytes(answer.body)) == (200, right(server, work))


def test_a_client_that_ends_its_side_within_the_request(server: Serving) -> None:
    assert through(server, MEDIUM, up=Way(end_after=len(MEDIUM) // 2)).status in (0, 400)


def test_a_body_that_drips_holds_memory_no_longer_than_a_request_may_take() -> None:
    """Each byte comes well before the longest pause; these would take two minutes."""
    with apart(REQUEST_TIMEOUT_MS=str(HELD_MS)) as server:

        async def whole() -> tuple[Answer, float]:
            head = MEDIUM.index(b"\r\n\r\n") + 4
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(MEDIUM[:head])
            began_s = time.monotonic()
            answer = asyncio.ensure_future(reader.read(65536))
            for byte in MEDIUM[head : head + 2400]:
                writer.write(bytes([byte]))
                await asyncio.wait([answer], timeout=0.05)
                if answer.done():
                    break
            took_s = time.monotonic() - began_s
            status = int((await answer).split()[1])
            writer.close()
            assert not any((await settled(server.port)).values())
            return Answer(status), took_s

        answer, took_s = run(whole)
    assert answer.status in (408, 504)
    assert took_s < HELD_MS / 1e3 + within_s(LIMIT_S)
