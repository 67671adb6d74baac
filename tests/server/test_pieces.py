"""Where the network cuts a stream of bytes changes nothing in what is made of it."""

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.server.protocol import Protocol
from tests._soak import rounds
from tests._wire import get, post
from tests.server._in_process import Connection
from tests.server.test_http_corpus import ODD, REFUSED

LARGE = 20_000
STREAMS = [stream for stream in REFUSED.values() if len(stream) < LARGE]
STREAMS += [stream for stream, _ in ODD.values()]
STREAMS += [
    post("/a", b"123") + get("/b", "Connection: Upgrade", "Upgrade: h2c") + post("/c", bytes(999)),
    get("/a") + b"\r\n\r\n" + get("/b") + b"NONSENSE",
]


class Seen(Connection):
    """Answers each request at once, and notes it with its body."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.begun.append({"scope": (scope["method"], scope["raw_path"], scope["headers"], body)})
        fields = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body"})


async def outcome(pieces: list[bytes]) -> tuple[list[Any], list[bytes], bool]:
    """The requests, the statuses, and whether the connection has ended."""
    seen = Seen(Protocol)
    for piece in pieces:
        seen.protocol.data_received(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    statuses = [line[:3] for line in seen.wire.written.split(b"HTTP/1.1 ")[1:]]
    if b"200" in statuses:  # what follows is refused in words if it came after the answer
        statuses = [status for status in statuses if status == b"200"]
    ended = bool({"close", "eof"} & set(seen.wire.calls))
    seen.protocol.connection_lost(None)
    while seen.state.tasks:
        await asyncio.sleep(0)
    return [request["scope"] for request in seen.begun], statuses, ended


@settings(max_examples=rounds(150, 5000), deadline=None)
@given(st.sampled_from(STREAMS), st.data())
def test_pieces_do_not_matter(stream: bytes, data: st.DataObject) -> None:
    places = st.integers(1, max(1, len(stream) - 1))
    cuts = [0, *sorted(data.draw(st.sets(places, max_size=8))), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(cuts) if a < b]
    assert asyncio.run(outcome(pieces)) == asyncio.run(outcome([stream] if stream else []))


def test_bytes_one_by_one() -> None:
    for stream in STREAMS:
        whole = asyncio.run(outcome([stream] if stream else []))
        single = [bytes([byte]) for byte in stream[:2000]] + [stream[2000:]]
        assert asyncio.run(outcome([piece for piece in single if piece])) == whole


def test_a_head_behind_a_large_body_in_the_same_piece_is_not_large() -> None:
    stream = post("/a", bytes(100_000)) + get("/b")
    whole = asyncio.run(outcome([stream]))
    assert len(whole[0]) == 2
    assert asyncio.run(outcome([stream[:-5], stream[-5:]])) == whole
