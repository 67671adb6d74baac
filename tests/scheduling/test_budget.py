"""Pools and turns: the order of asking, early refusals, and when a queue is stuck."""

import asyncio
import time

import pytest

from app.errors import Overloaded
from app.scheduling.budget import Budget, Turns

pytestmark = pytest.mark.anyio


async def endless(_: asyncio.Future[None]) -> None:
    await _


class Clock:
    """What `time.monotonic` says."""

    now_s = 0.0

    async def work_off(self, turns: Turns, each_s: float) -> None:
        """Three turns, one after the other: the pace that `turns` then expects."""
        for _ in range(3):
            await turns.take(1, endless)
            self.now_s += each_s
            turns.give(1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now_s)
    return clock


async def test_a_budget_serves_in_the_order_of_asking() -> None:
    budget, served = Budget("it", 10, 4), []

    async def ask(name: str, amount: int) -> None:
        await budget.take(amount, endless)
        served.append(name)

    await budget.take(8, endless)
    tasks = []
    for name, amount in (("large", 9), ("small", 1), ("other", 2)):
        tasks.append(asyncio.create_task(ask(name, amount)))
        await asyncio.sleep(0)
    assert (budget.waiting, served) == (3, [])  # small would fit, and waits behind large
    budget.give(8)
    await asyncio.sleep(0)
    assert served == ["large", "small"]
    budget.give(9)
    await asyncio.gather(*tasks)
    assert (budget.taken, budget.waiting) == (3, 0)


async def test_who_needs_little_passes_who_waits_for_more_than_is_free() -> None:
    budget = Budget("it", 640, 2)
    await budget.take(600, endless)
    large = asyncio.create_task(budget.take(100, endless))
    await asyncio.sleep(0)
    for _ in range(4):
        await budget.take(10, endless)
    little = asyncio.create_task(budget.take(10, endless))
    await asyncio.sleep(0)
    assert (budget.taken, budget.waiting) == (640, 2)
    budget.give(10)
    await little
    assert (budget.taken, budget.waiting) == (640, 1)
    budget.give(100)
    await large


async def test_a_full_queue_refuses_at_once_and_tells_how_long_it_is_full() -> None:
    budget = Budget("it", 1, 1)
    await budget.take(1, endless)
    waiting = asyncio.create_task(budget.take(1, endless))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await budget.take(1, endless)
    await asyncio.sleep(0.02)
    assert budget.full_s >= 0.01
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (budget.waiting, budget.full_s) == (0, 0)
    budget.give(1)
    await budget.take(1, endless)


async def test_turns_that_are_never_given_back_are_stuck(clock: Clock) -> None:
    """Its queue is bounded by its pace, and never as long as others may be."""
    turns = Turns("a turn", 1, 32, timeout_s=2)
    await clock.work_off(turns, each_s=0.5)
    await turns.take(1, endless)
    waiting = [asyncio.create_task(turns.take(1, endless)) for _ in range(3)]
    await asyncio.sleep(0)
    clock.now_s += 6
    assert (turns.waiting, turns.full_s) == (2, 6)
    turns.give(1)
    assert turns.full_s == 0
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_gives_up_lets_the_next_pass_and_returns_what_it_got_meanwhile() -> None:
    budget = Budget("it", 10, 4)
    await budget.take(5, endless)
    large = asyncio.create_task(budget.take(10, endless))
    await asyncio.sleep(0)
    small = asyncio.create_task(budget.take(5, endless))
    await asyncio.sleep(0)
    large.cancel()
    await small
    assert budget.taken == 10
    late = asyncio.create_task(budget.take(10, endless))
    await asyncio.sleep(0)
    budget.give(10)
    late.cancel()  # granted in the same step
    await asyncio.gather(late, return_exceptions=True)
    assert (budget.taken, budget.waiting) == (0, 0)


async def test_turns_refuse_what_would_wait_too_long(clock: Clock) -> None:
    turns = Turns("a turn", 1, 10, timeout_s=4)
    await clock.work_off(turns, each_s=0.9)
    await turns.take(1, endless)
    waiting = [asyncio.create_task(turns.take(1, endless)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"estimated wait .* 2\.7 s"):  # two before it, and its own
        await turns.take(1, endless)
    assert turns.waiting == 2
    turns.give(1)
    for task in waiting:
        await task
        turns.give(1)
