"""Health answers while checks search for what explains random numbers, and waits for none."""

import asyncio
import json
import random
from collections import Counter

from tests._load import Connections, run, settled
from tests._serving import Serving, apart
from tests._soak import rounds
from tests._wire import JSON, get, post

PROBES = rounds(20, 300)
SIDE = 32
RANDOM = random.Random(0)
NUMBERS = [[[[round(RANDOM.uniform(-9, 9), 3) for _ in range(SIDE)] for _ in range(SIDE)]]]
REQUEST = {"input": NUMBERS, "kernel_size": 31, "stride": 1, "padding": 15}
CHECK = post(
    "/v1/layers/avg_pool2d/check",
    json.dumps({"request": REQUEST, "expected": {"output": NUMBERS}}).encode(),
    JSON,
)
"""Some hundred hypotheses, none of which fits."""


async def probed(server: Serving) -> Counter[tuple[str, int]]:
    """What is answered to checks and to probes, until there were enough of both."""
    connections, seen = Connections(server.port), Counter[tuple[str, int]]()

    async def check() -> None:
        while seen["livez", 200] < PROBES or not seen["check", 200]:
            seen["waiting", 0] += 1
            answer = await connections.ask(CHECK)
            seen["waiting", 0] -= 1
            seen["check", answer.status] += 1
            if answer.status == 200:
                assert answer.json["searched"]["hypotheses"] > 1
                assert not answer.json["diagnosis"]

    async def probe() -> None:
        while seen["livez", 200] < PROBES:
            before = seen["check", 200]
            seen["livez", (await connections.ask(get("/livez"))).status] += 1
            seen["during", seen["waiting", 0] > 0 and before == seen["check", 200]] += 1

    await asyncio.gather(*(check() for _ in range(3)), probe())
    connections.close()
    return seen


def test_health_under_checks() -> None:
    with apart(MAX_QUEUED_REQUESTS="4", QUEUE_TIMEOUT_MS="120000") as server:
        seen = run(lambda: probed(server))
        gauges = run(lambda: settled(server.port))
    assert {status for kind, status in seen if kind == "livez"} == {200}
    assert {status for kind, status in seen if kind == "check"} <= {200, 503}
    assert seen["during", True], "each probe waited for a check to end"
    assert not any(gauges.values()), gauges
