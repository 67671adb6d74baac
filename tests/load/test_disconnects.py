"""Clients that leave while their request waits, is computed, printed or sent."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

import pytest

from tests._load import Connection, ask, gauges, run, settled
from tests._serving import Serving, apart
from tests._soak import SOAK, rounds, within_s
from tests._wire import get
from tests.load._requests import HEAVY, SMALL, request

NUMBER = rounds(30, 250)
"""Clients that leave at each of the four stages."""
SETTLE_S = within_s(1)
LONG_WORK = rounds(16, 8)
"""In pieces of HEAVY."""
LONG = request(
    "max_pool2d", (LONG_WORK, 1, 128, 128), digits=True, kernel_size=127, stride=1, padding=63
)
LONG_ANSWER = request("adaptive_avg_pool2d", (1, 1, 4, 4), output_size=[640, 640])
"""Little to read and to compute, and 400,000 numbers to print and send."""
Stage = Callable[[Serving], Awaitable[None]]


async def shed(server: Serving) -> float:
    """How many requests were given up because their client had left."""
    text = (await ask(server.port, get("/metrics"))).body.decode()
    found = re.search(r'lamina_shed_requests_total\{reason="client-left"\} ([0-9.e+]+)', text)
    return float(found[1]) if found else 0.0


async def leave_in_the_queue(server: Serving) -> None:
    """All but the first few wait, and leave before their turn."""
    first = [await Connection.open(server.port) for _ in range(3)]
    working = [asyncio.ensure_future(connection.ask(LONG)) for connection in first]
    await asyncio.sleep(0.02)
    waiting = [await Connection.open(server.port) for _ in range(NUMBER)]
    for connection in waiting:
        connection.transport.write(HEAVY)
    while (await gauges(server.port))["lamina_queued_requests"] < NUMBER:
        await asyncio.sleep(0.01)
    for connection in waiting:
        connection.reset()
    assert {(await answer).status for answer in working} == {200}
    for connection in first:
        connection.close()


async def leave_while_computing(server: Serving) -> None:
    for _ in range(NUMBER):
        connection = await Connection.open(server.port)
        connection.transport.write(HEAVY)
        await asyncio.sleep(0.03)
        connection.reset()


async def leave_while_printing(server: Serving) -> None:
    for number in range(NUMBER):
        connection = await Connection.open(server.port)
        connection.transport.write(LONG_ANSWER)
        await asyncio.sleep(0.003 * (number % 10))
        connection.reset()


async def leave_while_sending(server: Serving) -> None:
    """Never read what comes, so that the service cannot send it all."""
    for number in range(NUMBER):
        connection = await Connection.open(server.port)
        connection.transport.pause_reading()
        connection.transport.write(LONG_ANSWER)
        await asyncio.sleep(0.003 * (number % 10))
        connection.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", [leave_in_the_queue, leave_while_computing, leave_while_printing, leave_while_sending]
)
def test_clients_leave(stage: Stage) -> None:
    with apart(
        MAX_QUEUED_REQUESTS="1000", QUEUE_TIMEOUT_MS="250000", REQUEST_TIMEOUT_MS="250000"
    ) as server:

        async def all_of_it() -> dict[str, float]:
            for warm in (SMALL, HEAVY, LONG_ANSWER):
                assert (await ask(server.port, warm)).status == 200
            handles, before_s = server.handles, server.cpu_s
            await ask(server.port, HEAVY)
            one_s = server.cpu_s - before_s
            before_s = server.cpu_s
            await stage(server)
            left, until = await settled(server.port, SETTLE_S), time.monotonic() + SETTLE_S
            if stage is leave_in_the_queue:
                assert await shed(server) == NUMBER
                most_s = one_s * (3 * LONG_WORK + NUMBER / 3)
                assert not SOAK or server.cpu_s - before_s < most_s, "they were computed"
            while server.handles != handles and time.monotonic() < until:
                await asyncio.sleep(0.02)
            assert server.handles == handles
            assert (await ask(server.port, SMALL)).status == 200
            return left

        left = run(all_of_it)
    assert not any(left.values()), left
