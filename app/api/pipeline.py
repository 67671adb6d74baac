"""The one way of every request: read its body and fields, admit and run its task, write the answer.

A `Face` says how requests come and answers go, an operation's `Reader` what they ask for; the
order, the claims on memory and turns, the deadline and the metrics are the same for all.
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
"""Most that the transport holds of an answer whose memory has been given back."""
COMPUTE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class Wire(Protocol):
    """The form of one request and of its answer."""

    max_body_bytes: int

    def need_bytes(self, body_bytes: int) -> int:
        """Memory that reading a body takes."""

    def reads_inline(self, body: bytes | bytearray) -> bool:
        """Whether reading takes next to nothing."""

    def read(self, body: bytes | bytearray) -> Fields:
        """The request's fields."""

    def check(self, task: Task) -> None:
        """Refuse what this form cannot answer, before anything is computed."""

    def answer_bytes(self, task: Task) -> int:
        """Memory that the answer takes beside its tensors."""

    def writes_inline(self, task: Task) -> bool:
        """Whether writing takes next to nothing."""

    def write(self, task: Task, answer: Answer) -> tuple[Pieces, tuple[Header, ...]]:
        """The answer's body in pieces, and its headers."""


class Face(Protocol):
    """A protocol: what is asked of one reader, in the forms that it knows."""

    def encoding(self, headers: Headers) -> str:
        """The request's form, a word for the metrics."""

    def wire(self, headers: Headers) -> Wire:
        """The form that these headers ask for.

        Raises:
            UnsupportedMedia, NotAcceptable: there is none.

        """


class Pipeline:
    """What all requests share: limits, admission, and who keeps count of them."""

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
        """Answer one request for `name`, and note how it ended.

        Raises:
            LaminaError: it was not answered; nothing was sent.

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
        claim.lap_ms()  # nobody works while the body comes in
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
        """The body, in memory that was free, and room to read it.

        Raises:
            RequestError: it is too long, has no length, or does not come.
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
        """Room for a body of unknown length: twice what came, where that is not for others."""
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
    """Send what starlette's Response would, without the time it takes to build one."""
    length = (b"content-length", b"%d" % sum(map(len, pieces)))
    start = (*COMPUTE_HEADERS, length, *headers)
    await send({"type": "http.response.start", "status": 200, "headers": start})
    *others, last = _cut(pieces)
    for piece in others:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": last})


def _cut(pieces: Pieces) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces of bounded size; with the last handed over, most others are sent."""
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
