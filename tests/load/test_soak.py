"""Thousands of mixed requests, and the same against a service that keeps every body."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import pytest

from app.codecs import SAFETENSORS
from app.codecs import safetensors as codec
from app.schemas.tensors import TensorPayload
from tests._load import Connection, Connections, run, settled
from tests._serving import MIB, Serving, apart
from tests._soak import HANGS_S, SOAK
from tests._wire import JSON, get, post
from tests.load._requests import INVALID, MEDIUM, SMALL, request

WARM_UP = 1000
SPANS = [20_000, 500_000] if SOAK else [3_000]
MOST_GROWTH_BYTES = {3_000: 8 * MIB, 20_000: 16 * MIB, 500_000: 32 * MIB}
"""By the number of requests."""
MOST_SLOPE_BYTES = {3_000: 2000, 20_000: 100, 500_000: 100}
"""A request, over the last half. Pages come and go: a short run says less."""
CLIENTS = 8
PARTS = 40
INVALID_SHARE, ABORTED_SHARE = 0.1, 0.05


def binary() -> bytes:
    tensor = TensorPayload("float32", (1, 4, 16, 16), memoryview(bytearray(4096)))
    kind = (f"Content-Type: {SAFETENSORS}", f"Accept: {SAFETENSORS}")
    return post("/v1/layers/relu", b"".join(codec.encode({"input": tensor})), *kind)


OPEN = b'{"inputs":[{"name":"input","shape":[2],"datatype":"FP32","data":[-1,2]}]}'
VALID = [
    SMALL,
    MEDIUM,
    request("max_pool2d", (1, 2, 8, 8), kernel_size=2, grad_output="ones"),
    request("avg_pool1d", (2, 3, 50), kernel_size=5, explain=True),
    request("group_norm", (2, 6, 5, 5), num_groups=3, grad_output="ones"),
    request("adaptive_max_pool2d", (1, 2, 9, 9), output_size=[3, 4]),
    request("layer_norm", (4, 32), normalized_shape=[32]),
    binary(),
    post("/v2/models/relu/infer", OPEN, JSON),
    post("/v1/layers/max_pool2d/shape", b'{"input_shape":[1,1,8,8],"kernel_size":2}', JSON),
    get("/metrics"),
    get("/v1/layers"),
]
WRONG = [
    INVALID,
    post("/v1/layers/relu", b'{"input":[1,2', JSON),
    post("/v1/layers/relu", b'{"input":["a"],"more":1}', JSON),
    post("/v1/layers/none", b"{}", JSON),
    post("/v1/layers/relu", b'{"input":[1]}', "Content-Type: text/plain"),
    post("/v1/layers/relu", b"\xff" * 100, f"Content-Type: {SAFETENSORS}"),
]


@dataclass(frozen=True)
class Growth:
    """What a run left behind."""

    bytes: int
    slope: float
    handles: tuple[int, int]
    statuses: Counter[int]

    def check(self, requests: int) -> None:
        assert self.bytes <= MOST_GROWTH_BYTES[requests], self
        assert self.slope <= MOST_SLOPE_BYTES[requests], self
        assert self.handles == (0, 0), self


async def drive(server: Serving, number: int, chance: random.Random) -> Counter[int]:
    """So many requests, in any order; their statuses, 0 for those that left."""
    connections, statuses, left = Connections(server.port), Counter[int](), iter(range(number))

    async def abort() -> None:
        connection = await Connection.open(server.port)
        request = chance.choice(VALID)
        connection.transport.write(request[: chance.randint(1, len(request))])
        await asyncio.sleep(0.002 * chance.random())
        connection.reset()
        statuses[0] += 1

    async def client() -> None:
        for _ in left:
            draw = chance.random()
            if draw < ABORTED_SHARE:
                await abort()
                continue
            wrong = draw < ABORTED_SHARE + INVALID_SHARE
            answer = await connections.ask(chance.choice(WRONG if wrong else VALID))
            assert 400 <= answer.status < 500 if wrong else answer.status == 200, answer
            statuses[answer.status] += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    connections.close()
    return statuses


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs of points."""
    return median((y - v) / (x - u) for (u, v), (x, y) in combinations(points, 2))


async def quiet(server: Serving) -> tuple[int, int]:
    """Open files and threads, when the connections have gone."""
    before = server.handles
    for _ in range(200):
        await asyncio.sleep(0.02)
        if server.handles == before:
            break
        before = server.handles
    return before


def soak(app: str, number: int) -> Growth:
    chance = random.Random(7)
    with apart(app=app, QUEUE_TIMEOUT_MS="60000") as server:

        async def whole() -> Growth:
            await drive(server, WARM_UP, chance)
            handles, first = await quiet(server), server.rss_bytes
            points, statuses = [(0.0, float(first))], Counter[int]()
            for part in range(1, PARTS + 1):
                statuses += await drive(server, number // PARTS, chance)
                points.append((part * number / PARTS, float(server.rss_bytes)))
            after, gauges = await quiet(server), await settled(server.port)
            assert not any(gauges.values()), gauges
            more = (after[0] - handles[0], after[1] - handles[1])
            slope = theil_sen(points[len(points) // 2 :])
            return Growth(server.rss_bytes - first, slope, more, statuses)

        return run(whole)


@pytest.mark.slow
@pytest.mark.timeout(HANGS_S)
@pytest.mark.parametrize("requests", SPANS)
def test_memory_files_and_threads_stay(requests: int) -> None:
    growth = soak("app.server.cli", requests)
    print(growth)
    assert growth.statuses[0] > requests * ABORTED_SHARE / 2
    growth.check(requests)


@pytest.mark.slow
@pytest.mark.timeout(HANGS_S)
def test_a_leak_is_found() -> None:
    growth = soak("tests.load._leaky", SPANS[0])
    print(growth)
    with pytest.raises(AssertionError):
        growth.check(SPANS[0])
