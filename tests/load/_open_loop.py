"""Load that does not wait: requests start when the plan says, whatever has become of others.

Latency counts from that planned start, so a client that falls behind shows up as slow answers and
never hides them (coordinated omission).
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.load._client import Answer, Connections


@dataclass(frozen=True)
class Sample:
    """One request: its kind, when it should have started and when it ended, s, and its answer."""

    kind: str
    planned_s: float
    began_s: float
    ended_s: float
    answer: Answer

    @property
    def took_ms(self) -> float:
        return (self.ended_s - self.planned_s) * 1e3


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Starting times with exponential gaps, s, fixed before the first is sent."""
    chance, now, times = random.Random(seed), 0.0, list[float]()
    while (now := now + chance.expovariate(rate)) < seconds:
        times.append(now)
    return times


def kinds(mix: Mapping[str, int], number: int, seed: int = 0) -> list[str]:
    """`number` kinds of request, drawn in the mix's proportions."""
    return random.Random(seed).choices(list(mix), list(mix.values()), k=number)


async def open_loop(
    port: int, requests: Mapping[str, bytes], plan: Sequence[tuple[float, str]]
) -> list[Sample]:
    """Send each kind of request at its time; all samples, in the order of the plan."""
    connections, begin_s = Connections(port), time.perf_counter() + 0.05

    async def one(at_s: float, kind: str) -> Sample:
        began_s = time.perf_counter()
        try:
            answer = await connections.ask(requests[kind])
        except OSError:
            answer = Answer()
        return Sample(kind, begin_s + at_s, began_s, time.perf_counter(), answer)

    tasks: list[asyncio.Task[Sample]] = []
    for at_s, kind in plan:
        left_s = begin_s + at_s - time.perf_counter()
        if left_s > 0:
            await asyncio.sleep(left_s)
        tasks.append(asyncio.create_task(one(at_s, kind)))
    samples = [await task for task in tasks]
    connections.close()
    return samples


async def closed_loop(
    port: int, requests: Mapping[str, bytes], order: Sequence[str], clients: int
) -> list[Sample]:
    """Send the requests in order, as many at a time as there are clients."""
    connections, left = Connections(port), iter(order)
    samples: list[Sample] = []

    async def client() -> None:
        for kind in left:
            began_s = time.perf_counter()
            answer = await connections.ask(requests[kind])
            samples.append(Sample(kind, began_s, began_s, time.perf_counter(), answer))

    await asyncio.gather(*(client() for _ in range(clients)))
    connections.close()
    return samples


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
