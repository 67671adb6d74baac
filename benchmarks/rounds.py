"""Measures: in each round every contestant has its turn, in an order that alternates."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import orjson
import psutil

from benchmarks.contestants import LAMINA, PEERS, STARLETTE, TYPED, Contestant
from benchmarks.contestants.typed import ANSWERS, WAYS
from benchmarks.floor import Floor
from benchmarks.in_process import Lamina
from benchmarks.load import closed_loop, one_client, open_loop, percentile
from benchmarks.services import Service
from benchmarks.works import BATCH, SHAPES, Work, batch_request, single_request

MANY = 16
"""Clients in a closed loop, besides one alone."""
LARGE = 802_816
LARGE_ROUNDS = 2
"""Of 16 clients with large inputs, which take the typed service ten seconds a turn."""
MOST_COUNT = 4000
FLOOR, IN_PROCESS = "floor", "lamina in process"
PEER_NAMES = tuple(peer.name for peer in PEERS)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn gave: requests a second, and processor time of the service for each, ms."""

    rate: float
    cpu_ms: float


Turns = Mapping[str, Sequence[Turn]]
"""The turns of each contestant, a round each."""


def ratio(turns: Turns, mine: str, other: str) -> float:
    """The median over the rounds of one rate to another."""
    pairs = zip(turns[mine], turns[other], strict=True)
    return statistics.median(a.rate / b.rate for a, b in pairs)


def cpu_ratio(turns: Turns, mine: str, other: str) -> float:
    """The same by processor time, which a busy machine disturbs less: the other's to mine."""
    pairs = zip(turns[mine], turns[other], strict=True)
    return statistics.median(b.cpu_ms / a.cpu_ms for a, b in pairs)


def takes_part(contestant: Contestant, work: Work, clients: int) -> bool:
    """Whether a contestant does this work.

    With 16 clients and large inputs, only Lamina and the typed service do: with one core, the
    peers are as slow as with one client, and a turn of theirs would take up to a minute.
    """
    if work.encoding != "JSON":
        return contestant in (LAMINA, STARLETTE)
    if clients > 1 and work.floats == LARGE:
        return contestant in (LAMINA, TYPED)
    return contestant is not STARLETTE


class Rounds:
    """One run: the services that are up, and what was measured, by work and number of clients."""

    def __init__(self, lamina: Lamina, rounds: int, turn_s: float) -> None:
        self.rounds = rounds
        self.turns: dict[tuple[Work, int], dict[str, list[Turn]]] = {}
        self.parsers: dict[Work, str] = {}
        self.failed: list[str] = []
        self._lamina = lamina
        self._turn_s = turn_s
        self._buffer = bytearray(64 << 20)

    def measure(self, work: Work, clients: int, services: Sequence[Service]) -> None:
        """The services' rates; beside Lamina's with one client and JSON, also the floor's."""
        takers: dict[str, Callable[[], Turn]] = {}
        for service in services:
            if takes_part(service.contestant, work, clients):
                with self._left_out_if_it_fails(service.contestant.name, work, takers):
                    takers[service.contestant.name] = self._served(service, work, clients)
        if clients == 1 and work.encoding == "JSON" and LAMINA.name in takers:
            takers |= self._unserved(work)
        rounds = self.rounds
        if clients > 1 and work.floats == LARGE:
            rounds = min(rounds, LARGE_ROUNDS)
        turns: dict[str, list[Turn]] = {name: [] for name in takers}
        for index in range(rounds):
            for name in sorted(takers, reverse=bool(index % 2)):
                with self._left_out_if_it_fails(name, work, takers):
                    turns[name].append(takers[name]())
        found = self.turns.setdefault((work, clients), {})
        found |= {name: turns[name] for name in takers}

    @contextmanager
    def _left_out_if_it_fails(
        self, name: str, work: Work, takers: dict[str, Callable[[], Turn]]
    ) -> Iterator[None]:
        """A peer that does not answer, for example in time, has no further turns at this work."""
        try:
            yield
        except (OSError, RuntimeError, psutil.Error) as error:
            if name not in PEER_NAMES:
                raise
            takers.pop(name, None)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self.failed.append(f"{name} ({work}: {reason})")

    def batches(self, layer: str, service: Service) -> Turns:
        """The turns of 64 single requests and of a batch of them; a rate is one of 64 requests."""
        wires = {"batch": batch_request(layer).wire, "single": single_request(layer).wire}
        turns: dict[str, list[Turn]] = {name: [] for name in wires}
        for _ in range(self.rounds):
            for name, wire in wires.items():
                before_s, each = service.cpu_s(), BATCH if name == "single" else 1
                took_s = one_client(service.port, wire, 4 * each)
                turns[name].append(Turn(4 / took_s, (service.cpu_s() - before_s) / 4 * 1e3))
        return turns

    def latencies(self, seconds: float, services: Sequence[Service]) -> Iterator[tuple[str, ...]]:
        """Closed loop of 8 clients, then open loop at half of what that gave."""
        for service in services:
            for floats in (16, 24_576):
                wire = Work("max_pool2d", floats).request(service.contestant).wire
                alone_s = one_client(service.port, wire, 5) / 5
                count = max(16, int(seconds / alone_s))
                took_s, closed = closed_loop(service.port, wire, 8, count)
                opened = open_loop(service.port, wire, count / took_s / 2, seconds)
                kinds = (("closed, 8 clients", 1.0, closed), ("open", 0.5, opened))
                for loop, share, found in kinds:
                    per_second = f"{share * count / took_s:.0f} /s"
                    shown = [f"{percentile(found, part) * 1e3:.2f}" for part in (0.5, 0.95, 0.99)]
                    yield (service.contestant.name, f"{floats:,}", per_second, loop, *shown)

    def ways(self, typed: Service) -> Iterator[tuple[str, ...]]:
        """The rates of the typed service in each of its ways, with 16 clients."""
        works = [Work(layer, floats) for floats in (16, 24_576) for layer in ANSWERS]
        takers = {
            (way, work): self._served(replace(typed, contestant=_way(prefix)), work, MANY)
            for work in works
            for prefix, way in WAYS.items()
        }
        rates: dict[tuple[str, Work], list[float]] = {key: [] for key in takers}
        for _ in range(self.rounds):
            for key, turn in takers.items():
                rates[key].append(turn().rate)
        yield ("way", *(f"{work.layer}, {work.floats:,}" for work in works))
        for way in WAYS.values():
            yield (way, *(f"{statistics.median(rates[way, work]):.0f}" for work in works))

    def _served(self, service: Service, work: Work, clients: int) -> Callable[[], Turn]:
        """A turn of a service, after a check of its answer."""
        wire = work.request(service.contestant).wire
        if work.encoding == "JSON" and clients == 1:
            work.verify(service.ask(wire, self._buffer))
        alone_s = one_client(service.port, wire, 2, self._buffer) / 2
        count = self._count(alone_s, clients)

        def turn() -> Turn:
            before_s = service.cpu_s()
            if clients == 1:
                took_s = one_client(service.port, wire, count, self._buffer)
            else:
                took_s, _ = closed_loop(service.port, wire, clients, count)
            return Turn(count / took_s, (service.cpu_s() - before_s) / count * 1e3)

        return turn

    def _unserved(self, work: Work) -> dict[str, Callable[[], Turn]]:
        """A turn of the floor and one of Lamina without sockets, which answer the same."""
        request = work.request(LAMINA)
        answer = orjson.loads(self._lamina.answer(request))
        constant = {name: answer[name] for name in ("layer", "dtype", "device", "options")}
        floor = Floor(work.layer, request.body, SHAPES[work.floats], constant)
        floor.check(answer)
        self.parsers[work] = floor.parser

        def turn(seconds: Callable[[int], tuple[float, float]]) -> Turn:
            each_s, cpu_s = seconds(self._count(seconds(1)[0], 1))
            return Turn(1 / each_s, cpu_s * 1e3)

        return {
            FLOOR: lambda: turn(floor.seconds),
            IN_PROCESS: lambda: turn(lambda count: self._lamina.seconds(request, count)),
        }

    def _count(self, alone_s: float, clients: int) -> int:
        """Requests of one turn."""
        return max(clients, min(MOST_COUNT, int(self._turn_s / alone_s)))


def _way(prefix: str) -> Contestant:
    return replace(TYPED, path=f"{prefix}/LAYER")
