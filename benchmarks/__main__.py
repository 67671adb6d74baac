"""`make bench`: Lamina beside other services and beside the floor, as ratios in one run.

The services listen on loopback and share one core; the client has another. The exit code is 1 if a
demand is missed.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import torch

from benchmarks.contestants import ASYNC, LAMINA, PEERS, RAY, STARLETTE, TYPED
from benchmarks.demands import LAYERS, batch_demand, demands
from benchmarks.in_process import Lamina
from benchmarks.report import (
    demand_table,
    floor_table,
    heading,
    latency_table,
    rate_table,
    way_table,
)
from benchmarks.rounds import MANY, Rounds
from benchmarks.services import cores, start
from benchmarks.works import SHAPES, Work

DOCUMENT = Path(__file__).parents[1] / "docs/benchmarks.md"
ALL = (LAMINA, TYPED, ASYNC, STARLETTE, *PEERS)
BRIEF = ("lamina", "typed", "mosec")


def main() -> int:
    arguments = _arguments()
    chosen = [one for one in ALL if not arguments.only or one.name in arguments.only]
    server_core, client_core = cores()
    with ExitStack() as stack:
        services, missing = start(stack, [one for one in chosen if one is not RAY], server_core)
        up = {service.contestant.name: service for service in services}
        # The floor runs here, as the services do: on one core.
        os.sched_setaffinity(0, {client_core})
        torch.set_num_threads(1)
        lamina = stack.enter_context(Lamina())
        run = Rounds(lamina, arguments.rounds, arguments.seconds)
        works = list(_works(arguments.floats, bytes_too=STARLETTE in chosen))
        for work, clients in works:
            print(f"{work}, clients: {clients}", flush=True)
            run.measure(work, clients, services)
        batches = [
            batch_demand(layer, run.batches(layer, up["lamina"]))
            for layer in LAYERS
            if 16 in arguments.floats
        ]
        extra = []
        if not arguments.only:
            extra.append(way_table(run.ways(up["typed"])))
            extra.append(latency_table(run.latencies(3, [up["lamina"], up["typed"]])))
        # Last, because its many processes never rest.
        alone, without = start(stack, [one for one in chosen if one is RAY], server_core)
        for work, clients in works:
            run.measure(work, clients, alone)
        found = [*demands(run.turns), *batches]
        parts = [
            heading(arguments.rounds, [*missing, *without, *run.failed]),
            demand_table(found),
            rate_table(run.turns),
            floor_table(run.turns, run.parsers),
            *extra,
        ]
    text = "\n".join(parts)
    print(text)
    if arguments.write:
        DOCUMENT.write_text(text)
    return int(not all(demand.is_met for demand in found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks")
    names = ", ".join(one.name for one in ALL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.25, help="of one turn, about")
    parser.add_argument("--floats", type=int, nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {names}")
    parser.add_argument(
        "--brief", action="store_true", help=f"16 floats and {', '.join(BRIEF)}: half a minute"
    )
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    arguments = parser.parse_args()
    if arguments.write and (arguments.brief or arguments.only or len(arguments.floats) < 3):
        parser.error("--write needs a whole run")
    if arguments.brief:
        arguments.floats = [16]
        arguments.only = arguments.only or BRIEF
    if arguments.only and not {LAMINA.name} <= set(arguments.only) <= {one.name for one in ALL}:
        parser.error(f"--only takes lamina and others of {names}")
    return arguments


def _works(floats: list[int], *, bytes_too: bool) -> Iterator[tuple[Work, int]]:
    for count, layer, clients in product(floats, LAYERS, (1, MANY)):
        yield Work(layer, count), clients
        if bytes_too and count > 16:
            yield Work(layer, count, "bytes"), clients


if __name__ == "__main__":
    sys.exit(main())
