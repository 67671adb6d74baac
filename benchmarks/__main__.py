"""`make bench`: Lamina beside other services and beside the floor, as ratios in one run.

Each service listens on loopback in a process of its own, on one core where there are two; the
client has the other. In each round every contestant gets its turn, in an order that alternates.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from safetensors.numpy import save

from benchmarks import floor
from benchmarks.contestants import LAMINA, OPTIONS, PEERS, PLAIN, STARLETTE, TYPED, Contestant
from benchmarks.contestants.torch_layers import LAYERS
from benchmarks.load import Connection, Request, closed_loop, open_loop, percentile, rate
from benchmarks.report import Ratio, heading, latency_table, rate_table, ratio_table

SHAPES = {16: (1, 1, 4, 4), 24_576: (8, 3, 32, 32), 802_816: (4, 64, 56, 56)}
COUNTS = {16: 200, 24_576: 12, 802_816: 1}
BINARY = "application/vnd.safetensors"
AGAINST_PLAIN = {
    "max_pool2d": {16: 1.5, 24_576: 10, 802_816: 20},
    "batch_norm2d": {16: 1.3, 24_576: 10, 802_816: 12},
}
AGAINST_PEERS = {16: 1.0, 24_576: 8, 802_816: 15}
OF_THE_FLOOR = {24_576: 1 / 2.0, 802_816: 1 / 1.5}
BYTES_TO_JSON = {24_576: 3, 802_816: 8}
BYTES_TO_BARE = {24_576: 0.5, 802_816: 0.6}
LATENCY_GROWTH = 20
DOCUMENT = Path(__file__).parents[1] / "docs/benchmarks.md"


@contextmanager
def serving(contestant: Contestant) -> Iterator[int]:
    """The service on a free port, on the first core where there are two."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    pinned = ["taskset", "-c", "0"] if (os.cpu_count() or 1) > 1 else []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*pinned, *contestant.started(port)], **quiet)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def image(floats: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(SHAPES[floats], "f4")


def json_request(contestant: Contestant, layer: str, floats: int) -> Request:
    fields = {"input": image(floats), **contestant.fields(layer)}
    body = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    return Request(contestant.url(layer), body)


def binary_request(contestant: Contestant, layer: str, floats: int) -> Request:
    x = image(floats)
    if contestant is STARLETTE:
        shape = ",".join(map(str, x.shape))
        return Request(contestant.url(layer), x.tobytes(), f"X-Shape: {shape}\r\n")
    options = orjson.dumps(OPTIONS[layer]).decode()
    headers = f"Content-Type: {BINARY}\r\nAccept: {BINARY}\r\n"
    return Request(contestant.url(layer), save({"input": x}, {"request": options}), headers)


def verify(answer: dict[str, Any], layer: str, floats: int) -> None:
    """The service gives torch's numbers."""
    expected = LAYERS[layer](image(floats))
    gradients, running = answer.get("gradients", {}), answer.get("running_stats", {})
    for name, wanted in expected.items():
        group, _, part = name.partition("_")
        nested = {"grad": gradients, "running": running}.get(group, {})
        found = answer[name] if name in answer else nested[part]
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-4, atol=1e-3)


class Run:
    """One run: the services that are up, and what was measured."""

    def __init__(self, ports: dict[str, int], contestants: list[Contestant], rounds: int) -> None:
        self.ports = ports
        self.contestants = contestants
        self.rounds = rounds
        self._buffer = bytearray(64 << 20)
        self.rates: dict[tuple[str, int], dict[str, list[float]]] = {}

    def measure(self, layer: str, floats: int) -> None:
        """Requests a second of every contestant and of the floor, a round each."""
        turns = {c.name: (c, json_request(c, layer, floats)) for c in self.contestants}
        for name, (contestant, request) in turns.items():
            verify(orjson.loads(self._connection(contestant).post(request)), layer, floats)
            print(f"  {name} gives torch's numbers", flush=True)
        if floats in BYTES_TO_JSON:
            for contestant in (LAMINA, STARLETTE):
                request = binary_request(contestant, layer, floats)
                turns[f"{contestant.name} bytes"] = (contestant, request)
        rates: dict[str, list[float]] = {name: [] for name in [*turns, "floor"]}
        for index in range(self.rounds):
            for name in sorted(rates, reverse=bool(index % 2)):
                count = COUNTS[floats] * (4 if "bytes" in name else 1)
                if name == "floor":
                    body = json_request(LAMINA, layer, floats).body
                    spent = floor.seconds(body, SHAPES[floats], layer, count)
                    rates[name].append(1 / spent)
                else:
                    contestant, request = turns[name]
                    # A new connection each turn: some servers close those that idle.
                    rates[name].append(rate(self._connection(contestant), request, count))
        self.rates[layer, floats] = rates

    def ratio(self, layer: str, floats: int, mine: str, other: str) -> float:
        """The median over the rounds of one rate to another."""
        rates = self.rates[layer, floats]
        return statistics.median(a / b for a, b in zip(rates[mine], rates[other], strict=True))

    def ratios(self) -> Iterator[Ratio]:
        """What was demanded, and what was reached."""
        peers = [c.name for c in self.contestants if c in PEERS]
        for layer, demands in AGAINST_PLAIN.items():
            for floats, demand in demands.items():
                work = f"{layer}, {floats:,} floats"
                yield Ratio(work, "plain", demand, self.ratio(layer, floats, "lamina", "plain"))
                if peers:
                    worst = min(peers, key=lambda p: self.ratio(layer, floats, "lamina", p))
                    reached = self.ratio(layer, floats, "lamina", worst)
                    yield Ratio(work, f"best peer ({worst})", AGAINST_PEERS[floats], reached)
                if floats in OF_THE_FLOOR:
                    reached = self.ratio(layer, floats, "lamina", "floor")
                    yield Ratio(work, "the floor in process", OF_THE_FLOOR[floats], reached)
                    mine = "lamina bytes"
                    reached = self.ratio(layer, floats, mine, "lamina")
                    yield Ratio(f"{work}, bytes", "its own JSON", BYTES_TO_JSON[floats], reached)
                    reached = self.ratio(layer, floats, mine, "starlette bytes")
                    yield Ratio(f"{work}, bytes", "bare Starlette", BYTES_TO_BARE[floats], reached)

    def growth(self, layer: str) -> Iterator[Ratio]:
        """How the rate falls where a request has 16 times the elements."""
        large = SHAPES[802_816]
        small = (large[0], large[1] // 16, *large[2:])
        for name, request in (("JSON", json_request), ("bytes", binary_request)):
            connection = self._connection(LAMINA)
            SHAPES[50_176] = small
            pairs = []
            for _ in range(self.rounds):
                slow = rate(connection, request(LAMINA, layer, 802_816), 2)
                pairs.append(slow / rate(connection, request(LAMINA, layer, 50_176), 8))
            yield Ratio(f"{layer}, 16 times the elements, {name}", "itself", 1 / LATENCY_GROWTH,
                        statistics.median(pairs))  # fmt: skip

    def latencies(self, seconds: float) -> Iterator[tuple[str, ...]]:
        """Closed loop of 8 clients, then open loop at half of what that gave."""
        for contestant in (PLAIN, LAMINA):
            port = self.ports[contestant.name]
            for floats in (16, 24_576):
                request = json_request(contestant, "max_pool2d", floats)
                closed = closed_loop(port, request, 8, seconds)
                per_second = len(closed) / seconds
                yield (contestant.name, f"{floats:,}", f"{per_second:.0f} /s", "closed, 8 clients",
                       *_percentiles(closed))  # fmt: skip
                opened = open_loop(port, request, per_second / 2, seconds)
                yield (contestant.name, f"{floats:,}", f"{per_second / 2:.0f} /s", "open",
                       *_percentiles(opened))  # fmt: skip

    def _connection(self, contestant: Contestant) -> Connection:
        return Connection(self.ports[contestant.name], self._buffer)


def _percentiles(latencies: list[float]) -> tuple[str, ...]:
    return tuple(f"{percentile(latencies, share) * 1e3:.2f}" for share in (0.5, 0.95, 0.99))


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each latency measurement")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    missing = [peer.name for peer in PEERS if not peer.is_installed]
    contestants = [PLAIN, TYPED, LAMINA, *(peer for peer in PEERS if peer.is_installed)]
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        for contestant in [*contestants, STARLETTE]:
            try:
                ports[contestant.name] = stack.enter_context(serving(contestant))
            except OSError:
                missing.append(f"{contestant.name} (does not start)")
        if len(cores) > 1:
            os.sched_setaffinity(0, {max(cores)})
            torch.set_num_threads(1)  # the floor runs here, as the services do: on one core
        run = Run(ports, [c for c in contestants if c.name in ports], arguments.rounds)
        for layer, demands in AGAINST_PLAIN.items():
            for floats in demands:
                print(f"{layer}, {floats:,} floats", flush=True)
                run.measure(layer, floats)
        ratios = [*run.ratios(), *run.growth("max_pool2d")]
        latencies = list(run.latencies(arguments.seconds))
    text = "\n".join(
        (heading(arguments.rounds, missing), ratio_table(ratios), rate_table(run.rates),
         latency_table(latencies))
    )  # fmt: skip
    print(text)
    if arguments.write:
        DOCUMENT.write_text(text)
    return int(any(not ratio.is_reached for ratio in ratios))


if __name__ == "__main__":
    sys.exit(main())
