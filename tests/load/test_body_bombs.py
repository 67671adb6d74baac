"""Bodies that are too long, lie about their length, or want much memory for what they are."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from app import codecs
from tests._load import PROBLEM, Answer, Connection, ask, run, settled
from tests._serving import MIB, Serving, apart
from tests._soak import rounds
from tests._wire import JSON, get, post

RELU = "/v1/layers/relu"
CAP_BYTES = rounds(4, 16) * MIB
PIECE_BYTES = 64 * 1024
SLACK_BYTES = 64 * MIB
READ_SLACK_BYTES = 256 * 1024
JSON_FACTOR, BINARY_FACTOR = 32, 3
"""Memory at most, to the body's length."""
CHUNKS = rounds(100_000, 1_000_000)
CHUNKED = "Transfer-Encoding: chunked"
SAFETENSORS = f"Content-Type: {codecs.SAFETENSORS}"


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


async def endless(server: Serving, head: bytes, framed: Callable[[bytes], bytes]) -> int:
    """Send piece after piece, each when the last was read, until the answer; bytes read."""
    connection, piece = await Connection.open(server.port), framed(b" " * PIECE_BYTES)
    before = server.bytes_read
    connection.expect()
    answered = asyncio.ensure_future(connection.answer())
    connection.transport.write(head)
    sent = len(head)
    while not answered.done():
        connection.transport.write(piece)
        sent += len(piece)
        assert sent < CAP_BYTES + 64 * MIB
        while server.bytes_read - before < sent and not answered.done():
            await asyncio.sleep(0.001)
    answer, read = answered.result(), server.bytes_read - before
    assert (answer.status, answer.headers["content-type"]) == (413, PROBLEM)
    connection.close()
    return read


def at_cap(server: Serving, body: bytes, kind: str) -> tuple[Answer, int]:
    """The answer, and by how much the service grew at its peak, bytes."""
    run(lambda: ask(server.port, post(RELU, body[: len(body) // 64], kind)))
    before = server.rss_bytes
    server.reset_peak()
    answer = run(lambda: ask(server.port, post(RELU, body, kind)))
    return answer, server.peak_rss_bytes - before


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with apart(
        MAX_JSON_BODY_BYTES=str(CAP_BYTES),
        MAX_BINARY_BODY_BYTES=str(4 * CAP_BYTES),
        BODY_IDLE_TIMEOUT_MS="5000",
        REQUEST_TIMEOUT_MS="600000",
    ) as found:
        yield found
        assert not any(run(lambda: settled(found.port)).values())
        assert run(lambda: ask(found.port, get("/livez"))).status == 200


def test_an_endless_body_in_chunks(server: Serving) -> None:
    before = server.rss_bytes
    server.reset_peak()
    head = post(RELU, b"", JSON, CHUNKED)
    read = run(lambda: endless(server, head, chunk))
    assert read <= CAP_BYTES + READ_SLACK_BYTES
    assert server.peak_rss_bytes - before <= 2 * CAP_BYTES + SLACK_BYTES


def test_a_length_over_the_limit_is_refused_before_its_body(server: Serving) -> None:
    head = post(RELU, b"", JSON, f"Content-Length: {CAP_BYTES + 1}")
    assert run(lambda: endless(server, head, bytes)) <= READ_SLACK_BYTES


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_at_the_limit(server: Serving, extra: int) -> None:
    text = b'{"input":[1]'
    body = text + b" " * (CAP_BYTES + extra - len(text) - 1) + b"}"
    answer = run(lambda: ask(server.port, post(RELU, body, JSON)))
    assert answer.status == (413 if extra > 0 else 200)


@pytest.mark.parametrize("part", [b"[],", b"[0],", b"0,", b'"",', b"{},", b"[", b'{"a":'])
def test_memory_for_a_json_bomb(server: Serving, part: bytes) -> None:
    head = b'{"input":['
    body = head + part * ((CAP_BYTES - len(head)) // len(part))
    answer, grown = at_cap(server, body, JSON)
    assert answer.status in (400, 422)
    assert len(answer.body) <= 8192
    assert grown <= JSON_FACTOR * len(body) + SLACK_BYTES


@pytest.mark.parametrize("byte", [b"\0", b"\xff", b"{"])
def test_memory_for_a_binary_bomb(server: Serving, byte: bytes) -> None:
    body = (4 * CAP_BYTES - 8).to_bytes(8, "little") + byte * (4 * CAP_BYTES - 8)
    answer, grown = at_cap(server, body, SAFETENSORS)
    assert answer.status == 400
    assert grown <= BINARY_FACTOR * len(body) + SLACK_BYTES


@pytest.mark.parametrize(("size", "status"), [(1, 400), (20, 200)])
def test_a_flood_of_tiny_chunks(server: Serving, size: int, status: int) -> None:
    """A million of one byte are refused; chunks of a size that a client might choose are not."""
    text = b'{"input":[1]'
    body = text + b" " * (CHUNKS - len(text) - 1) + b"}"
    pieces = b"".join(chunk(body[i : i + size]) for i in range(0, len(body), size)) + chunk(b"")
    before = server.rss_bytes
    server.reset_peak()
    answer = run(lambda: ask(server.port, post(RELU, pieces, JSON, CHUNKED)))
    assert answer.status == status, bytes(answer.body)
    assert server.peak_rss_bytes - before <= CAP_BYTES + 32 * MIB


def test_a_body_shorter_than_its_length(server: Serving) -> None:
    request = post(RELU, b'{"input":[1]}', JSON, "Content-Length: 100")
    assert run(lambda: ask(server.port, request)).status == 408


def test_a_body_longer_than_its_length(server: Serving) -> None:
    async def twice() -> tuple[Answer, Answer]:
        connection = await Connection.open(server.port)
        body = b'{"input":[1]}'
        first = await connection.ask(post(RELU, body + b"}}}\r\n\r\n", JSON, "Content-Length: 13"))
        connection.expect()
        return first, await asyncio.wait_for(connection.answer(), 60)

    first, second = run(twice)
    assert (first.status, second.status) in ((200, 400), (200, 0), (400, 0))
