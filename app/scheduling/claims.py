"""Admission: what each request reserves of the process, and its work on a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from app.errors import BodyTooLarge, OutputTooLarge
from app.scheduling.body_budget import Bodies
from app.scheduling.budget import Budget, Turns
from app.scheduling.deadline import Deadline, clock
from app.scheduling.steps import Steps, finished
from app.scheduling.threads import Threads

INLINE_MS = 1.0
"""CPU work up to this estimate, an upper bound, runs on the event loop: switching threads would
cost as much."""
SMALL_MS = 100.0
"""Maximum estimate of work in the lane for small requests."""
SMALL_BYTES = 4 << 20
"""Maximum memory of a small request's body, and of its result; less if the budget is small."""
LARGE_TURNS = 3
"""One request is decoded, one computed, one encoded."""
SMALL_TURNS = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Lane:
    """The budgets shared by requests of one size."""

    bodies: Bodies
    results: Budget
    turns: Turns


class Admission:
    """Divides memory and turns among requests, so that small ones never wait behind large ones.

    A request reserves memory for its body as it arrives, then for decoding it, then for its result.
    It only waits for requests that are further along, which end within bounded time.
    """

    def __init__(
        self, threads: Threads, *, budget_bytes: int, max_queued: int, timeout_s: float,
        inline_ms: float,
    ) -> None:  # fmt: skip
        small_budget = budget_bytes // 16
        large_budget = self.most_bytes(budget_bytes)
        self.small_bytes = min(SMALL_BYTES, small_budget // 4)
        self.threads = threads
        self.timeout_s = timeout_s
        self.inline_ms = inline_ms
        self.in_flight = 0
        self.small = self._lane("small", small_budget, SMALL_TURNS, max_queued, self.small_bytes)
        self.large = self._lane("large", large_budget, LARGE_TURNS, max_queued, 0)
        self._budgets = [
            budget
            for lane in (self.small, self.large)
            for budget in (lane.bodies, lane.bodies.reading, lane.results, lane.turns)
        ]

    @staticmethod
    def most_bytes(budget_bytes: int) -> int:
        """The most that a body, or a result, may take of a budget."""
        return budget_bytes // 2 - budget_bytes // 16

    def _lane(self, size: str, size_bytes: int, turns: int, max_queued: int, kept: int) -> Lane:
        return Lane(
            Bodies(size, size_bytes, max_queued, kept),
            Budget(f"memory for {size} results", size_bytes, max_queued),
            Turns(f"a {size} request's turn", turns, max_queued, self.timeout_s),
        )

    @property
    def queued(self) -> int:
        """Requests that wait for bytes or a turn."""
        return sum(budget.waiting for budget in self._budgets)

    @property
    def reserved_bytes(self) -> int:
        """Bytes that requests hold."""
        return sum(budget.taken for budget in self._budgets if not isinstance(budget, Turns))

    @property
    def stuck_s(self) -> float:
        """Seconds for which a queue has been full without progress."""
        return max(budget.full_s for budget in self._budgets)

    def lane_of(self, need_bytes: int) -> Lane:
        """The lane of a request with this need of memory."""
        return self.small if need_bytes <= self.small_bytes else self.large

    def same_lane(self, one_bytes: int, other_bytes: int) -> bool:
        """Whether both belong to the same lane, and `other_bytes` fits into it."""
        lane = self.lane_of(one_bytes)
        return lane is self.lane_of(other_bytes) and other_bytes <= lane.bodies.size

    def claim(self, deadline: Deadline) -> "Claim":
        """The claim of a request that has just arrived."""
        return Claim(self, deadline)


class HeldBody(NamedTuple):
    """A body's budget, its length or reservation, and what decoding needs in addition, bytes."""

    bodies: Bodies
    length: int
    rest: int

    def give(self) -> None:
        """Release it."""
        self.bodies.give(self.length, self.rest)


class Claim:
    """What one request holds: bytes, a turn, a job on a thread. `close` releases all of it."""

    def __init__(self, admission: Admission, deadline: Deadline) -> None:
        self.deadline = deadline
        self.queue_ms = 0.0
        self._admission = admission
        self._held: list[tuple[Budget, int]] = []
        self._body: HeldBody | None = None
        self._turn: Turns | None = None
        self._job: Future[Any] | None = None
        self._lapped_s, self._lapped_queue_ms = clock(), 0.0
        admission.in_flight += 1

    def check_body(self, need_bytes: int) -> Bodies:
        """The budget of a body that needs `need_bytes` in total.

        Raises:
            BodyTooLarge: more than this process ever has.
            Overloaded: it would get no turn to be decoded.

        """
        lane = self._admission.lane_of(need_bytes)
        if need_bytes > lane.bodies.size:
            raise BodyTooLarge(
                f"reading the body takes {need_bytes} bytes of memory; "
                f"the limit is {lane.bodies.size}"
            )
        if lane is self._admission.large:
            lane.turns.check_room()
        return lane.bodies

    async def take_body(self, length: int, need_bytes: int) -> None:
        """Reserve memory for a body of known length; `need_bytes` includes decoding it.

        Raises:
            BodyTooLarge, Overloaded, DeadlineExceeded, Abandoned: never, or not now.

        """
        bodies, rest = self.check_body(need_bytes), need_bytes - length
        await self._queue(bodies, length, rest)
        self._body = HeldBody(bodies, length, rest)

    def grow_body(self, length: int, need_bytes: int) -> None:
        """Reserve more memory for a body of unknown length, part of which is here: without waiting.

        Raises:
            BodyTooLarge, Overloaded: never, or not now.

        """
        bodies, rest = self.check_body(need_bytes), need_bytes - length
        held = self._body
        if held is None or held.bodies is not bodies:
            bodies.grow(0, length, rest)
            if held:
                held.give()
        else:
            bodies.grow(held.length, length, rest)
            held._replace(length=0).give()
        self._body = HeldBody(bodies, length, rest)

    async def take_reading(self, length: int, need_bytes: int) -> None:
        """Reserve memory to decode a complete body.

        Raises:
            BodyTooLarge, Overloaded, DeadlineExceeded, Abandoned: never, or not now.

        """
        if self._body is None:
            bodies = self.check_body(need_bytes)
            if bodies is self._admission.small.bodies:
                await self._take(bodies.reading, need_bytes)
                return
            await self.take_body(length, need_bytes)
        held = self._body
        assert held is not None
        await self._take(held.bodies.reading, max(need_bytes - held.length, 0))

    async def take_result(self, need_bytes: int) -> None:
        """Reserve memory for the result and its serialized form, before it is computed.

        Raises:
            OutputTooLarge: more than this process ever has.
            Overloaded, DeadlineExceeded, Abandoned: not now.

        """
        lane = self._admission.lane_of(need_bytes)
        if need_bytes > lane.results.size:
            raise OutputTooLarge(
                f"the result and its serialized form need {need_bytes} bytes of memory; the limit "
                f"is {lane.results.size}. Send fewer samples, or request a binary answer"
            )
        await self._take(lane.results, need_bytes)

    async def take_turn(self, *, small: bool) -> None:
        """Take a turn on the threads, unless the request has one.

        Raises:
            Overloaded, DeadlineExceeded, Abandoned: not now.

        """
        if self._turn is None:
            turns = (self._admission.small if small else self._admission.large).turns
            await self._take(turns, 1)
            self._turn = turns

    def lap_ms(self) -> float:
        """Time since the last call, without the time spent in queues, ms."""
        now = clock()
        lap_ms = (now - self._lapped_s) * 1e3 - (self.queue_ms - self._lapped_queue_ms)
        self._lapped_s, self._lapped_queue_ms = now, self.queue_ms
        return lap_ms

    async def run_codec(self, inline: bool, function: Callable[[], T]) -> T:
        """Run a codec, on the event loop if that takes very little time."""
        if inline:
            return function()
        await self.take_turn(small=False)
        return await self._on(self._admission.threads.codec, function)

    async def compute(self, cost_ms: float, function: Callable[[], T | Steps[T]]) -> T:
        """Run work estimated at `cost_ms`, on the event loop or on the thread of its lane.

        Raises:
            Overloaded, DeadlineExceeded, Abandoned: not now. Work that has started is only
                interrupted between its steps, if it has any; its result is discarded.

        """
        if cost_ms <= self._admission.inline_ms:
            self.deadline.check()
            return finished(function(), self.deadline.check)
        small = cost_ms <= SMALL_MS
        await self.take_turn(small=small)
        threads = self._admission.threads
        thread = threads.small if small else threads.large
        return await self._on(thread, lambda: finished(function(), self.deadline.check))

    def end_turn(self) -> None:
        """Release the turn: only sending the answer is left."""
        if self._turn is not None:
            self._held.remove((self._turn, 1))
            self._turn.give(1)
            self._turn = None

    def close(self) -> None:
        """Release everything; if a job is still running, once it has ended."""
        self.deadline.close()
        if self._job is None or self._job.cancel() or self._job.done():
            self._release()
        else:
            loop = asyncio.get_running_loop()
            self._job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release))

    async def _take(self, budget: Budget, amount: int) -> None:
        if not budget.take_now(amount):
            await self._queue(budget, amount)
        self._held.append((budget, amount))

    async def _queue(self, budget: Budget, amount: int, rest: int = 0) -> None:
        asked = clock()
        await budget.take(amount, self._wait, rest)
        self.queue_ms += (clock() - asked) * 1e3

    async def _wait(self, granted: asyncio.Future[None]) -> None:
        await self.deadline.wait(granted, self._admission.timeout_s)

    async def _on(self, thread: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        self.deadline.check()
        asked, begun = clock(), [0.0]

        def job() -> T:
            begun[0] = clock()
            return function()

        # The context carries the request id, for the log.
        submitted: Future[T] = thread.submit(copy_context().run, job)
        self._job = submitted
        result = await self.deadline.wait(_quiet(asyncio.wrap_future(submitted)))
        self.queue_ms += (begun[0] - asked) * 1e3
        return result

    def _release(self) -> None:
        for budget, amount in self._held:
            budget.give(amount)
        self._held.clear()
        if self._body is not None:
            self._body.give()
            self._body = None
        self._admission.in_flight -= 1


def _quiet(future: asyncio.Future[T]) -> asyncio.Future[T]:
    """The future, without asyncio's warning if its exception is never retrieved."""

    def see(done: asyncio.Future[T]) -> None:
        if not done.cancelled():
            done.exception()

    future.add_done_callback(see)
    return future
