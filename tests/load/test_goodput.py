"""Up to ten times more than the service can do: it does as much as before, and refuses the rest.

Load comes in at fixed times, whatever became of earlier requests. `work` weighs each answer by
what its kind takes of a core, so that many small answers do not hide the loss of large ones.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pytest

from tests._load import (
    PROBLEM,
    Connections,
    Sample,
    arrivals,
    closed_loop,
    kinds,
    open_loop,
    percentile,
    run,
    settled,
)
from tests._serving import MIB, Serving, apart
from tests._soak import HANGS_S, SOAK, rounds
from tests.load._requests import MIX, REQUESTS

SECONDS = rounds(2, 30)
LEVELS = (0.8, 1, 2, 5, 10) if SOAK else (1, 10)
CLIENTS = 3
"""Of the closed loop: enough to keep the core busy, too few for a queue."""
QUEUE_MS = 2000
REFUSAL_P99_MS = 50
MOST_GROWTH_MIB = 128
LEAST_GOODPUT, LEAST_RECOVERY = 0.9, 0.95
"""Of the most at any level; each refusal takes half a millisecond of the one core."""


@dataclass(frozen=True)
class Level:
    """What came of one level of load."""

    load: float
    sent: int
    statuses: dict[int, int]
    goodput: float
    work: float
    admitted_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    late_p99_ms: float
    rss_mib: int
    cpu: float


def level(
    load: float, samples: Sequence[Sample], costs_ms: dict[str, float], rss: int, cpu_s: float
) -> Level:
    good = [one for one in samples if one.answer.status == 200]
    refused = [one.took_ms for one in samples if one.answer.status == 503]
    seconds = max(one.ended_s for one in samples) - min(one.planned_s for one in samples)
    return Level(
        load,
        len(samples),
        dict(Counter(one.answer.status for one in samples)),
        round(len(good) / seconds, 1),
        round(sum(costs_ms[one.kind] for one in good) / seconds / 1e3, 3),
        round(percentile([one.took_ms for one in good], 0.99), 1),
        round(percentile(refused, 0.5), 1),
        round(percentile(refused, 0.99), 1),
        round(percentile([(one.began_s - one.planned_s) * 1e3 for one in samples], 0.99), 1),
        rss // MIB,
        round(cpu_s / seconds, 3),
    )


async def costs(server: Serving) -> dict[str, float]:
    """What each kind takes of the service's core, ms."""
    found, connections = {}, Connections(server.port)
    for kind, request in REQUESTS.items():
        number = rounds(50, 500) if kind in ("small", "medium") else rounds(5, 25)
        before_s = server.cpu_s
        for _ in range(number):
            assert (await connections.ask(request)).status == 200
        found[kind] = (server.cpu_s - before_s) / number * 1e3
    connections.close()
    return found


async def unhurried(server: Serving) -> float:
    """Requests/s of a few clients that wait for their answers, over about 5 s; all are served."""
    order = kinds(MIX, rounds(60, 240), seed=1)
    samples = await closed_loop(server.port, REQUESTS, order, CLIENTS)
    assert {one.answer.status for one in samples} <= ({200} if SOAK else {200, 503})
    return len(samples) / (max(s.ended_s for s in samples) - min(s.began_s for s in samples))


async def climb(server: Serving) -> tuple[list[Level], list[Sample], float]:
    """Each level; all samples; the capacity just after the worst, to the one before all."""
    costs_ms = await costs(server)
    capacity = await unhurried(server)
    print(json.dumps({"capacity": capacity, "costs_ms": costs_ms}), file=sys.stderr)
    found, everything = [], list[Sample]()
    for load in LEVELS:
        times = arrivals(capacity * load, SECONDS, seed=2)
        plan = list(zip(times, kinds(MIX, len(times), seed=3), strict=True))
        before_s = server.cpu_s
        samples = await open_loop(server.port, REQUESTS, plan)
        cpu_s = server.cpu_s - before_s
        found.append(level(load, samples, costs_ms, server.rss_bytes, cpu_s))
        print(json.dumps(asdict(found[-1])), file=sys.stderr)
        everything += samples
    return found, everything, await unhurried(server) / capacity


@pytest.mark.slow
@pytest.mark.timeout(HANGS_S)
def test_overload() -> None:
    with apart() as server:
        before = server.rss_bytes
        levels, samples, recovered = run(lambda: climb(server))
        gauges = run(lambda: settled(server.port))
    print(f"{recovered=:.3f}", file=sys.stderr)
    statuses = Counter(one.answer.status for one in samples)
    assert set(statuses) <= {200, 503}, statuses
    for one in samples:
        if one.answer.status == 503:
            assert one.answer.headers["content-type"] == PROBLEM
            assert 1 <= int(one.answer.headers["retry-after"]) <= 8
            assert one.answer.json["type"] == "/errors/overloaded"
    worst = levels[-1]
    assert worst.statuses[200]
    assert worst.statuses[503]
    assert worst.rss_mib - before // MIB <= MOST_GROWTH_MIB
    assert not any(gauges.values()), gauges
    if SOAK:
        check_pace(levels, recovered)


def check_pace(levels: Sequence[Level], recovered: float) -> None:
    """As much work as before, and quick refusals."""
    first, worst = levels[0], levels[-1]
    assert worst.statuses[503] > worst.sent / 5
    for figure in ("goodput", "work"):
        most = max(getattr(one, figure) for one in levels)
        assert getattr(worst, figure) >= LEAST_GOODPUT * most, figure
    assert worst.refused_p99_ms <= REFUSAL_P99_MS
    assert worst.admitted_p99_ms <= QUEUE_MS + max(2 * first.admitted_p99_ms, QUEUE_MS)
    assert recovered >= LEAST_RECOVERY
