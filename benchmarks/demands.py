"""The targets: ratios between Lamina and others in one run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.contestants import STARLETTE, TYPED
from benchmarks.rounds import FLOOR, IN_PROCESS, LARGE, MANY, PEER_NAMES, Turns, cpu_ratio, ratio
from benchmarks.works import BATCH, Work

LAYERS = ("max_pool2d", "batch_norm2d")
BEST_PEER = "best peer"
RATES = (
    (16, MANY, "JSON", TYPED.name, (1.6, 1.4)),
    (16, MANY, "JSON", "mosec", (1.1, 1.0)),
    (24_576, MANY, "JSON", TYPED.name, (10, 10)),
    (24_576, MANY, "JSON", BEST_PEER, (8, 8)),
    (LARGE, 1, "JSON", TYPED.name, (12, 10)),
    (LARGE, 1, "JSON", BEST_PEER, (12, 10)),
    (LARGE, 1, "JSON", FLOOR, (0.7, 0.7)),
    (24_576, MANY, "bytes", STARLETTE.name, (0.6, 0.5)),
    (LARGE, 1, "bytes", STARLETTE.name, (0.95, 0.95)),
)
"""Floats, clients, encoding, the other, and Lamina's least rate to its rate, for each layer."""
TIMES_OF_THE_FLOOR = {16: (2.2, 2.5)}
"""Floats, and Lamina's most processor time in process to the floor's, for each layer."""
BATCH_SPEEDUP = 3


@dataclass(frozen=True, slots=True)
class Demand:
    """A ratio that was reached, and its bound: the least, or for times the most."""

    work: str
    other: str
    reached: float
    bound: float
    at_most: bool = False
    by_cpu: float | None = None
    """The same ratio by processor time, which holds on a busy machine too."""

    @property
    def is_met(self) -> bool:
        return self.reached <= self.bound if self.at_most else self.reached >= self.bound


def demands(measured: Mapping[tuple[Work, int], Turns]) -> Iterator[Demand]:
    """The demands whose works were measured."""
    for floats, clients, encoding, other, bounds in RATES:
        for layer, bound in zip(LAYERS, bounds, strict=True):
            turns = measured.get((Work(layer, floats, encoding), clients), {})
            name, shown = other, "the floor in process" if other == FLOOR else other
            if other == BEST_PEER and (there := [peer for peer in PEER_NAMES if peer in turns]):
                name = min(there, key=lambda peer: ratio(turns, "lamina", peer))
                shown = f"{other} ({name})"
            if name in turns:
                who = "16 clients" if clients == MANY else "1 client"
                what = f"{Work(layer, floats, encoding)}, {who}"
                by_cpu = cpu_ratio(turns, "lamina", name)
                yield Demand(what, shown, ratio(turns, "lamina", name), bound, by_cpu=by_cpu)
    for floats, bounds in TIMES_OF_THE_FLOOR.items():
        for layer, bound in zip(LAYERS, bounds, strict=True):
            turns = measured.get((Work(layer, floats), 1), {})
            if turns:
                reached = cpu_ratio(turns, FLOOR, IN_PROCESS)
                what = f"{layer}, {floats:,} floats, JSON, in process: processor time"
                yield Demand(what, "the floor in process", reached, bound, at_most=True)


def batch_demand(layer: str, turns: Turns) -> Demand:
    """The speed of a batch."""
    reached, by_cpu = (measure(turns, "batch", "single") for measure in (ratio, cpu_ratio))
    work = f"{layer}, a batch of {BATCH} x 16 floats, JSON"
    return Demand(work, f"{BATCH} single requests", reached, BATCH_SPEEDUP, by_cpu=by_cpu)
