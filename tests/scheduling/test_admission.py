"""Admission: turns and bytes in order, early refusals, deadlines, nothing held at the end."""

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.api.readiness import STUCK_S, Readiness
from app.errors import BodyTooLarge, DeadlineExceeded, OutputTooLarge, Overloaded
from app.scheduling import (
    Abandoned,
    Admission,
    Claim,
    Deadline,
    Threads,
    claims,
    clock,
    memory_budget,
)
from app.scheduling.claims import LARGE_TURNS, SMALL_MS

pytestmark = pytest.mark.anyio
MIB = 1 << 20
BUDGET = 256 * MIB
LARGE_MS = SMALL_MS + 1


async def endless(_: asyncio.Future[None]) -> None:
    await _


@pytest.fixture
def admission() -> Admission:
    threads = Threads(lambda count: None, 1, gpu=False)
    return Admission(threads, budget_bytes=BUDGET, max_queued=4, timeout_s=60, inline_ms=1)


def claim_of(admission: Admission, left_s: float = 120) -> Claim:
    return admission.claim(Deadline(clock() + left_s))


def is_empty(admission: Admission) -> bool:
    return (admission.in_flight, admission.queued, admission.reserved_bytes) == (0, 0, 0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_queue_is_stuck_until_someone_who_waits_is_served(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    readiness, pool = Readiness(lambda: admission.stuck_s), admission.small.results
    await pool.take(pool.size, endless)
    waiting = [asyncio.create_task(pool.take(1, endless)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await pool.take(1, endless)
    for _ in range(4):  # each gives up after 2 s, and another one waits in its place
        assert readiness.obstacle() is None or now > STUCK_S
        now += 2
        waiting.pop(0).cancel()
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(pool.take(1, endless)))
        await asyncio.sleep(0)
    assert readiness.obstacle() is not None
    pool.give(1)
    assert (readiness.obstacle(), pool.waiting) == (None, 3)
    pool.give(3)
    await asyncio.gather(*waiting)


async def test_a_large_body_leaves_room_for_small_ones(admission: Admission) -> None:
    large, small = claim_of(admission), claim_of(admission)
    await large.take_body(admission.large.bodies.size, admission.large.bodies.size)
    await small.take_body(admission.small_bytes, admission.small_bytes)
    assert admission.reserved_bytes == admission.large.bodies.size + admission.small_bytes
    for claim in (large, small):
        claim.close()
    assert is_empty(admission)


async def test_a_body_that_is_there_waits_for_no_body_that_is_not(admission: Admission) -> None:
    """Clients that only begin to send leave room to read, and for what others begin."""
    factor, small = 10, admission.small_bytes
    length = small // factor
    idle = [claim_of(admission) for _ in range(admission.small.bodies.size // length)]
    pending = [asyncio.create_task(claim.take_body(length, factor * length)) for claim in idle]
    await asyncio.sleep(0)
    assert admission.reserved_bytes > admission.small.bodies.size - small - length
    tiny = claim_of(admission)
    await tiny.take_reading(50, 500)
    tiny.close()
    await idle[0].take_reading(length, factor * length)
    assert admission.small.bodies.taken + admission.small.bodies.reading.taken <= (
        admission.small.bodies.size
    )
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for claim in idle:
        claim.close()
    assert is_empty(admission)


async def test_bodies_never_wait_for_what_they_hold(admission: Admission) -> None:
    """Whatever comes together, all of it is read without anybody giving up."""
    chance, size = random.Random(1), admission.large.bodies.size
    for pool in admission._budgets:
        pool._max_waiting = 1000

    async def request() -> None:
        claim = claim_of(admission)
        need = chance.randint(1, size)
        length = need // chance.choice((1, 2, 10, 1000))
        if chance.random() < 0.2:
            try:
                for part in (3, 1):
                    claim.grow_body(length // part, need // part)
                    await asyncio.sleep(0)
            except Overloaded:
                claim.close()
                return
        elif chance.random() < 0.8:
            await claim.take_body(length, need)
        await asyncio.sleep(chance.random() / 1000)
        await claim.take_reading(length, need)
        for lane in (admission.small, admission.large):
            assert lane.bodies.taken + lane.bodies.reading.taken <= lane.bodies.size
        await asyncio.sleep(chance.random() / 1000)
        claim.close()

    await asyncio.gather(*(request() for _ in range(300)))
    assert is_empty(admission)
    assert admission.large.bodies.rests == [0]


async def test_a_body_of_unknown_length_grows_at_once_or_not_at_all(admission: Admission) -> None:
    claim, other = claim_of(admission), claim_of(admission)
    small, size = admission.small_bytes, admission.large.bodies.size
    claim.grow_body(100, 1000)
    claim.grow_body(200, 2000)
    assert (admission.reserved_bytes, admission.small.bodies.taken) == (200, 200)
    claim.grow_body(small, 2 * small)
    assert (admission.small.bodies.taken, admission.large.bodies.taken) == (0, small)
    await other.take_body(size - 4 * small, size - 4 * small)
    claim.grow_body(2 * small, 4 * small)
    with pytest.raises(Overloaded):
        claim.grow_body(3 * small, 6 * small)
    with pytest.raises(BodyTooLarge):
        claim.grow_body(small, size + 1)
    assert admission.large.bodies.taken == size - 2 * small
    for one in (claim, other):
        one.close()
    assert is_empty(admission)


async def test_a_small_request_does_not_wait_behind_a_long_one(admission: Admission) -> None:
    gate = threading.Event()
    large = claim_of(admission)
    long_one = asyncio.create_task(large.compute(LARGE_MS, gate.wait))
    await until(lambda: admission.large.turns.taken == 1)
    small = claim_of(admission)
    assert await small.compute(SMALL_MS, lambda: "done") == "done"
    assert not long_one.done()
    gate.set()
    await long_one
    for claim in (large, small):
        claim.close()
    assert is_empty(admission)


async def test_what_never_fits_is_the_requests_fault(admission: Admission) -> None:
    claim = claim_of(admission)
    with pytest.raises(BodyTooLarge):
        await claim.take_body(admission.large.bodies.size + 1, admission.large.bodies.size + 1)
    with pytest.raises(OutputTooLarge):
        await claim.take_result(admission.large.results.size + 1)
    claim.close()
    assert is_empty(admission)


async def test_a_full_lane_refuses_before_the_body_is_read(admission: Admission) -> None:
    holders = [claim_of(admission) for _ in range(LARGE_TURNS)]
    for holder in holders:
        await holder.take_turn(small=False)
    queued = [claim_of(admission) for _ in range(4)]
    tasks = [asyncio.create_task(claim.take_turn(small=False)) for claim in queued]
    await until(lambda: admission.queued == 4)
    late = claim_of(admission)
    with pytest.raises(Overloaded):
        await late.take_body(admission.small_bytes + 1, admission.small_bytes + 1)
    assert admission.reserved_bytes == 0
    late.close()
    small = claim_of(admission)
    await small.take_body(admission.small_bytes, admission.small_bytes)
    small.close()
    for claim in holders:
        claim.close()
    for claim, task in zip(queued, tasks, strict=True):
        await task
        claim.close()
    assert is_empty(admission)


async def test_the_deadline_answers_at_once_and_holds_until_the_thread_is_done(
    admission: Admission,
) -> None:
    gate = threading.Event()
    claim = claim_of(admission)
    await claim.take_result(1000)
    claim.deadline.until_s = clock() + 0.05
    with pytest.raises(DeadlineExceeded):
        await claim.compute(LARGE_MS, gate.wait)
    claim.close()
    assert (admission.in_flight, admission.reserved_bytes) == (1, 1000)
    assert admission.large.turns.taken == 1
    gate.set()
    await until(lambda: is_empty(admission))
    assert admission.large.turns.taken == 0


@pytest.mark.parametrize(
    ("timeout_s", "expected"), [(None, DeadlineExceeded), (60, DeadlineExceeded), (4, Overloaded)]
)
async def test_a_timer_that_ends_early_tells_which_time_was_over(
    timeout_s: float | None, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def early(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(asyncio, "wait", early)
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(expected):
        await Deadline(clock() + 30).wait(future, timeout_s)


async def test_work_of_a_client_that_left_is_dropped(admission: Admission) -> None:
    gate, left, ran = threading.Event(), asyncio.Event(), []
    first, second = claim_of(admission), claim_of(admission)
    running = asyncio.create_task(first.compute(LARGE_MS, gate.wait))
    await until(lambda: admission.large.turns.taken == 1)
    second.deadline.watch(left.wait)
    queued = asyncio.create_task(second.compute(LARGE_MS, lambda: ran.append(1)))
    await until(lambda: admission.large.turns.taken == 2)
    left.set()
    with pytest.raises(Abandoned):
        await queued
    second.close()
    assert admission.in_flight == 1
    gate.set()
    await running
    first.close()
    assert is_empty(admission)
    assert ran == []


async def test_the_queue_has_a_deadline_of_its_own(admission: Admission) -> None:
    holders = [claim_of(admission) for _ in range(LARGE_TURNS)]
    for holder in holders:
        await holder.take_turn(small=False)
    admission.timeout_s = 0.05
    late = claim_of(admission)
    with pytest.raises(Overloaded):
        await late.take_turn(small=False)
    for claim in (*holders, late):
        claim.close()
    assert is_empty(admission)


async def test_phases_are_timed_without_the_queues(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, claim = claim_of(admission), claim_of(admission)
    await holder.take_body(admission.large.bodies.size, admission.large.bodies.size)
    now = clock()
    monkeypatch.setattr(claims, "clock", lambda: now)
    claim.lap_ms()
    now += 0.01
    waiting = asyncio.create_task(claim.take_body(admission.small_bytes + 1, MIB * 8))
    await until(lambda: admission.large.bodies.waiting == 1)
    now += 0.2
    holder.close()
    await waiting
    assert claim.queue_ms == pytest.approx(200)
    assert claim.lap_ms() == pytest.approx(10)

    def compute() -> None:
        nonlocal now
        now += 0.05

    await claim.compute(LARGE_MS, compute)
    assert claim.lap_ms() == pytest.approx(50)
    claim.close()


def test_the_budget_follows_the_containers_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{4096 * MIB}\n")
    one, two = (memory_budget(workers, 16 * MIB, tmp_path) for workers in (1, 2))
    assert one == int(0.7 * 4096 * MIB) - 256 * MIB - 14 * 16 * MIB
    assert two < one / 2
    (tmp_path / "memory.max").write_text(f"{128 * MIB}\n")
    assert memory_budget(1, 16 * MIB, tmp_path) == 64 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_budget(1, 16 * MIB, tmp_path) == memory_budget(1, 16 * MIB, tmp_path / "no")


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")
def test_threads_give_way_to_those_that_hold_the_interpreter() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    threads = Threads(lambda team: None, 1, gpu=False)
    found = {
        name: executor.submit(niceness).result() - niceness()
        for name, executor in vars(threads).items()
    }
    threads.close()
    assert found == {"large": 10, "small": 10, "codec": 0}
