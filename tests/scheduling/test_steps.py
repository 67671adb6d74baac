"""Work in steps is left between two of them, and only there."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from app.errors import DeadlineExceeded
from app.scheduling import Abandoned, Admission, Deadline, Steps, Threads, clock, finished
from app.scheduling.claims import SMALL_MS

pytestmark = pytest.mark.anyio


@pytest.fixture
def admission() -> Iterator[Admission]:
    threads = Threads(lambda count: None, 1, gpu=False)
    yield Admission(threads, budget_bytes=1 << 28, max_queued=4, timeout_s=60, inline_ms=1)
    threads.close()


def counted(steps: list[int], most: int = 3) -> Steps[str]:
    """Work that notes each step, and its end."""
    try:
        for number in range(most):
            steps.append(number)
            yield
    finally:
        steps.append(-1)
    return "done"


def test_steps_and_plain_work_have_the_same_result() -> None:
    steps: list[int] = []
    works: list[str | Steps[str]] = [counted(steps), "done"]
    assert [finished(work) for work in works] == ["done", "done"]
    assert steps == [0, 1, 2, -1]


def test_a_check_is_made_between_steps() -> None:
    steps: list[int] = []

    work: str | Steps[str] = counted(steps)

    def check() -> None:
        if len(steps) == 2:
            raise Abandoned

    with pytest.raises(Abandoned):
        finished(work, check)
    assert steps == [0, 1, -1], "closed, so that it holds nothing"


@pytest.mark.parametrize("cost_ms", [0.5, SMALL_MS, SMALL_MS + 1])
async def test_a_claim_runs_steps_to_their_end(admission: Admission, cost_ms: float) -> None:
    claim = admission.claim(Deadline(clock() + 60))
    work: Callable[[], str | Steps[str]] = lambda: counted([])  # noqa: E731
    assert await claim.compute(cost_ms, work) == "done"
    claim.close()


async def test_the_deadline_ends_work_between_steps(admission: Admission) -> None:
    claim, gate, steps = admission.claim(Deadline(clock() + 60)), threading.Event(), list[int]()

    def work() -> Steps[str]:
        for number in range(1000):
            steps.append(number)
            gate.wait(60)
            yield
        return "never"

    function: Callable[[], str | Steps[str]] = work
    computing = asyncio.create_task(claim.compute(SMALL_MS + 1, function))
    while not steps:
        await asyncio.sleep(0.001)
    claim.deadline.until_s = clock()
    gate.set()
    with pytest.raises(DeadlineExceeded):
        await computing
    claim.close()
    admission.threads.close()
    assert steps == [0], "no step begins after the deadline"
    await asyncio.sleep(0)
    assert admission.in_flight == 0


async def test_a_client_that_left_ends_work_between_steps(admission: Admission) -> None:
    left, gate, steps = asyncio.Event(), threading.Event(), list[int]()
    claim = admission.claim(Deadline(clock() + 60))
    claim.deadline.watch(left.wait)

    def work() -> Steps[str]:
        for number in range(1000):
            steps.append(number)
            gate.wait(60)
            yield
        return "never"

    function: Callable[[], str | Steps[str]] = work
    computing = asyncio.create_task(claim.compute(SMALL_MS + 1, function))
    while not steps:
        await asyncio.sleep(0.001)
    left.set()
    with pytest.raises(Abandoned):
        await computing
    claim.close()
    gate.set()
    admission.threads.close()
    assert steps == [0]
    await asyncio.sleep(0)
    assert admission.in_flight == 0
