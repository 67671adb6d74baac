"""The pipeline of all requests: read the body and its fields, admit and run the task, send the
answer.

A `Face` defines the wire format of requests and answers, and an operation's `Reader` their meaning.
The order of steps, admission, deadlines and metrics are the same for all.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from starlette.types import Receive, Scope, Send

from app.api import problems
from app.api.bodies import Headers, body_length, deadline_s, headers_of, read_body
from app.api.readiness import Readiness
from app.compute import Answer
from app.errors import LaminaError
from app.limits import Limits
from app.observability.metrics import Metrics, PhaseTimings
from app.operations import Fields, Reader, Task
from app.scheduling import Admission, Claim, Deadline, clock

Header = tuple[bytes, bytes]
Pieces = Sequence[bytes | memoryview]
PIECE_BYTES = 1 << 20
"""How much of an answer the transport may hold after its memory has been released."""
COMPUTE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class Wire(Protocol):
    """The wire format of one request and its answer."""

    max_body_bytes: int

    def need_bytes(self, body_bytes: int) -> int:
        """Memory needed to decode a body."""

    def reads_inline(self, body: bytes | bytearray) -> bool:
        """Whether decoding is fast enough for the event loop."""

    def read(self, body: bytes | bytearray) -> Fields:
        """The request's fields."""

    def check(self, task: Task) -> None:
        """Refuse what this format cannot express, before anything is computed."""

    def answer_bytes(self, task: Task) -> int:
        """Memory that the answer needs in addition to its tensors."""

    def writes_inline(self, task: Task) -> bool:
        """Whether encoding is fast enough for the event loop."""

    def write(self, task: Task, answer: Answer) -> tuple[Pieces, tuple[Header, ...]]:
        """The answer's body in pieces, and its headers."""


class Face(Protocol):
    """A protocol: the wire formats in which requests to one reader are accepted."""

    def encoding(self, headers: Headers) -> str:
        """The request's encoding, as a metrics label."""

    def wire(self, headers: Headers) -> Wire:
        """The wire format that these headers select.

        Raises:
            UnsupportedMedia, NotAcceptable: there is none.

        """


class Pipeline:
    """What all requests share: limits, admission, metrics and readiness."""

    def __init__(
        self,
        limits: Limits,
        admission: Admission,
        metrics: Metrics,
        readiness: Readiness,
    ) -> None:
        self._limits = limits
        self._admission = admission
        self._metrics = metrics
        self._readiness = readiness

    async def serve(
        self, name: str, reader: Reader, face: Face, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one request for `name`, and record the outcome.

        Raises:
            LaminaError: the request failed; nothing was sent.

        """
        headers = headers_of(scope)
        encoding, begun = face.encoding(headers), clock()
        try:
            until_s = deadline_s(scope, headers, self._limits.queue.request_timeout_ms)
            claim = self._admission.claim(Deadline(until_s))
            self._metrics.begun()
            try:
                timings = await self._answer(
                    claim, reader, face.wire(headers), headers, receive, send
                )
            finally:
                claim.close()
        except problems.LEFT:
            self._metrics.shed("client-left")
            raise
        except Exception as error:
            status = problems.status_of(error)
            self._metrics.refused(name, encoding, status, (clock() - begun) * 1e3)
            if isinstance(error, LaminaError) and status >= 503:
                self._metrics.shed(error.code)
            self._readiness.note(error)
            raise
        self._metrics.answered(name, encoding, timings)

    async def _answer(
        self,
        claim: Claim,
        reader: Reader,
        wire: Wire,
        headers: Headers,
        receive: Receive,
        send: Send,
    ) -> PhaseTimings:
        body = await self._body(claim, wire, headers, receive)
        claim.lap_ms()  # receiving the body is not decoding
        read = partial(_task, reader, wire, body)
        task = await claim.run_codec(wire.reads_inline(body), read)
        decode_ms = claim.lap_ms()
        await claim.take_result(task.estimate.bytes + wire.answer_bytes(task))
        answer = await claim.compute(task.estimate.ms, task.work)
        compute_ms = claim.lap_ms()
        pieces, own = await claim.run_codec(
            wire.writes_inline(task), partial(wire.write, task, answer)
        )
        encode_ms = claim.lap_ms()
        claim.end_turn()
        timings = PhaseTimings(claim.queue_ms, decode_ms, compute_ms, encode_ms)
        await send_answer(send, pieces, (*own, timings.header()))
        return timings

    async def _body(
        self, claim: Claim, wire: Wire, headers: Headers, receive: Receive
    ) -> bytes | bytearray:
        """Receive the body, with memory reserved for it and for decoding it.

        Raises:
            RequestError: it is too long, has no length, or does not arrive.
            Overloaded, DeadlineExceeded, Abandoned: not now.

        """
        length = body_length(headers, wire.max_body_bytes)
        if length is not None:
            claim.check_body(wire.need_bytes(length))

        async def make_room(come: int) -> int:
            if length is None:
                return self._grown(claim, come, wire.max_body_bytes, wire.need_bytes)
            await claim.take_body(length, wire.need_bytes(length))
            return length

        idle_ms, until_s = self._limits.bodies.idle_timeout_ms, claim.deadline.until_s
        most_bytes = wire.max_body_bytes if length is None else length
        body = await read_body(receive, most_bytes, idle_ms, until_s, make_room)
        claim.deadline.watch(receive)
        await claim.take_reading(len(body), wire.need_bytes(len(body)))
        return body

    def _grown(
        self, claim: Claim, come: int, most_bytes: int, need_bytes: Callable[[int], int]
    ) -> int:
        """Reserve twice what has arrived, or just that if twice would need the other lane."""
        room = min(2 * come, most_bytes)
        if not self._admission.same_lane(need_bytes(come), need_bytes(room)):
            room = come
        claim.grow_body(room, need_bytes(room))
        return room


def _task(reader: Reader, wire: Wire, body: bytes | bytearray) -> Task:
    task = reader.read(wire.read(body))
    wire.check(task)
    return task


async def send_answer(send: Send, pieces: Pieces, headers: tuple[Header, ...]) -> None:
    """Send what Starlette's Response would, without the cost of building one."""
    length = (b"content-length", b"%d" % sum(map(len, pieces)))
    start = (*COMPUTE_HEADERS, length, *headers)
    await send({"type": "http.response.start", "status": 200, "headers": start})
    *others, last = _cut(pieces)
    for piece in others:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": last})


def _cut(pieces: Pieces) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces of bounded size, most of them sent before the last."""
    for piece in pieces:
        whole = memoryview(piece)
        for begin in range(0, len(whole) - PIECE_BYTES, PIECE_BYTES):
            yield whole[begin : begin + PIECE_BYTES]
        if len(whole) > PIECE_BYTES:
            # A copy: a view would keep all of the piece until it is sent.
            rest = len(whole) % PIECE_BYTES or PIECE_BYTES
            yield bytes(whole[-rest:])
        else:
            yield piece
